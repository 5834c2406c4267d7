"""Every error Headrace raises on purpose, in one tree.

::

    HeadraceError
    ├── ConfigurationError       settings or usage; final, exit code 2
    ├── DependencyDownError      Postgres, registry or broker away; the event waits, no attempt is counted
    ├── PoisonError              the event can never be processed; dead letter
    │   ├── UndecodableError     bytes that are no Avro frame, or do not fit their schema
    │   ├── UnknownSchemaError   a schema id that the codec does not hold; fetch it, then decode again
    │   ├── WrongRecordError     a record of another type than the stage reads
    │   ├── UnencodableError     a record of ours whose values do not fit its schema
    │   └── CrashLoopError       the event ended several workers without a result
    ├── OversizedError           an event over the topic's size limit; refused before it is sent
    ├── NotYetError              the event has to wait for longer than a slot may be held; set aside, put back later
    ├── RefusedError             a policy said no; ends as a typed answer, nothing is spent
    ├── ProviderError            a call to a model or embedding provider failed
    │   ├── TransientProviderError   may succeed later: 429, 5xx, connect error
    │   ├── OutcomeUnknownError      sent, but no reply was read: it may have been paid
    │   └── PermanentProviderError   will fail again: 400, 401, 403, unknown model
    ├── IndeterminateError       outcome unknown and the route forbids a repeat; dead letter and a failed answer
    └── FencedError              a later owner took over the call; this worker's result is discarded

``error_class`` is the class used in ``docs/delivery.md``: it decides the way an event takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

from schemas.record import Record


class HeadraceError(Exception):
    """Parent of all errors raised on purpose. ``retryable``: the same input may succeed later.

    ``outputs`` are events to publish although the event failed: what was spent on it, and the answer that ends it.
    """

    error_class: ClassVar[str] = "permanent"
    retryable: ClassVar[bool] = False
    outputs: Sequence[Record] = ()


class ConfigurationError(HeadraceError):
    """A setting, file or argument is wrong; the message names it and says what to do."""


class DependencyDownError(HeadraceError):
    """A named dependency is away; whoever waits for it waits without counting an attempt."""

    error_class = "transient-infrastructure"
    retryable = True

    def __init__(self, dependency: str, reason: str) -> None:
        super().__init__(f"{dependency} is not reachable: {reason}")
        self.dependency = dependency


class PoisonError(HeadraceError):
    """The event can never be processed."""

    error_class = "poison"


class UndecodableError(PoisonError):
    """The bytes are no Avro frame, or do not fit the schema that they name."""


class UnknownSchemaError(PoisonError):
    """The codec holds no schema under this id; the registry has to be asked."""

    def __init__(self, schema_id: int) -> None:
        super().__init__(f"schema id {schema_id} is not known; register the schema or correct the producer")
        self.schema_id = schema_id


class WrongRecordError(PoisonError):
    """The bytes decode to a record of another type than the stage reads."""


class UnencodableError(PoisonError):
    """A record of ours holds a value that its schema does not take; the message names no value."""


class CrashLoopError(PoisonError):
    """The event was in process when several workers ended."""


class OversizedError(HeadraceError):
    """The event is larger than its topic takes."""


class NotYetError(HeadraceError):
    """The event can't go on before ``wait_s`` seconds are over: it is set aside with its ``reason``, and put back then.

    ``reason`` names what holds it, e.g. ``deployment/main``; it holds no text of an event. ``expires_at``: when its
    time to live ends, where the event itself does not say.
    """

    error_class = "transient-infrastructure"
    retryable = True

    def __init__(self, wait_s: float, reason: str, *, expires_at: datetime | None = None) -> None:
        super().__init__(f"held back by {reason} for {wait_s:.0f} s")
        self.wait_s = wait_s
        self.reason = reason
        self.expires_at = expires_at


class RefusedError(HeadraceError):
    """A policy refused the request. ``status`` is the answer's: rejected, blocked, expired or failed.

    ``retry_after_s``: when another request may succeed, where a limit or budget refused this one.
    """

    error_class = "policy"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        status: str = "rejected",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.status = status
        self.retry_after_s = retry_after_s


class ProviderError(HeadraceError):
    """A provider call failed. ``code`` is ours and stable, e.g. ``http_429``; no provider text is kept."""

    def __init__(self, code: str, message: str, *, http_status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.http_status = http_status


class TransientProviderError(ProviderError):
    """May succeed later. ``retry_after_s`` is the provider's own wish."""

    error_class = "transient-provider"
    retryable = True

    def __init__(
        self, code: str, message: str, *, http_status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(code, message, http_status=http_status)
        self.retry_after_s = retry_after_s


class OutcomeUnknownError(ProviderError):
    """The request was sent and no whole reply was read: it may have been paid."""

    error_class = "unknown"
    retryable = True


class PermanentProviderError(ProviderError):
    """The same request will fail again."""


class IndeterminateError(HeadraceError):
    """A call's outcome is unknown and its route forbids to repeat it."""

    error_class = "unknown"


class FencedError(HeadraceError):
    """The call's lease has a later owner: the result of this one is discarded and booked as duplicate spend."""

    error_class = "transient-infrastructure"
    retryable = True
