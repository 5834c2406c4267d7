"""What the journal holds: calls, their attempts, and what a claim comes back with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

from schemas.ids import derive_id
from schemas.records import Usage

# ``reconcile``: its provider is asked before another attempt is sent.
UnknownPolicy = Literal["repeat", "fail", "reconcile"]
AttemptState = Literal["calling", "done", "failed", "unknown"]
CallState = Literal["reserved", "calling", "done", "failed", "unknown"]
# How a call that will never have a result ends its request.
FailureKind = Literal["failed", "expired", "indeterminate", "crash_loop"]

WORKER_LOST = "worker_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallKey:
    """What a paid call is for. The hash of what is sent is not part of it."""

    tenant: str
    lane: str
    run: str
    request_id: str
    purpose: str = "completion"
    ordinal: int = 0

    @property
    def call_id(self) -> str:
        """UUIDv5 of the key."""
        return derive_id(*self._parts())

    def attempt_id(self, ordinal: int) -> str:
        """UUIDv5 of the key and the attempt's number; also the id of the attempt's cost event."""
        return derive_id(*self._parts(), "attempt", ordinal)

    def _parts(self) -> tuple[str | int, ...]:
        return (self.tenant, self.lane, self.run, self.request_id, self.purpose, self.ordinal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """The most that one attempt can use and cost; booked while its outcome is unknown."""

    prompt_tokens: int
    completion_tokens: int
    usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an attempt goes, and what its cost event has to say whoever emits it."""

    route: str
    deployment: str
    provider: str
    model: str
    price_source: str
    account: str
    stage_version: str
    control_offset: int
    bound: Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A wish to make a call. ``expired`` is the caller's own finding; the journal checks ``expires_at`` again.

    ``cancelled``: the request was; the call is never granted then. ``refused``: nor is it then, because no money is
    left for it, and a call that was begun ends with that. ``if_lost``: what the call ends with when a worker
    was lost in the middle of it; ``None`` to make it again. ``stands``: a reply that was kept answers where the call
    may not go on; it is granted then, to be ended so.
    """

    key: CallKey
    input_hash: str
    input: bytes
    target: Target
    max_attempts: int
    unknown_policy: UnknownPolicy = "repeat"
    expires_at: datetime | None = None
    expired: bool = False
    cancelled: bool = False
    refused: CallFailure | None = None
    if_lost: CallFailure | None = None
    stands: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """How an attempt ended, as its worker saw it."""

    state: Literal["done", "failed", "unknown"]
    cost_usd: Decimal
    usage: Usage | None = None
    estimated: bool = False
    upper_bound: bool = False
    error_class: str | None = None
    error_code: str | None = None
    http_status: int | None = None
    response_id: str | None = None
    duration_ms: float | None = None
    first_token_ms: float | None = None


# No other attempt was open.
NONE: Mapping[str, Settled] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """One attempt as booked.

    ``late_at`` is set when its outcome came in after it had been booked unknown; ``unknown_code`` and
    ``unknown_duration_ms`` are what it had been booked with then.
    """

    attempt_id: str
    ordinal: int
    epoch: int
    target: Target
    state: AttemptState
    started_at: datetime
    ended_at: datetime | None = None
    error_class: str | None = None
    error_code: str | None = None
    http_status: int | None = None
    response_id: str | None = None
    duration_ms: float | None = None
    first_token_ms: float | None = None
    usage: Usage | None = None
    cost_usd: Decimal | None = None
    estimated: bool = False
    upper_bound: bool = False
    late_at: datetime | None = None
    duplicate: bool = False
    unknown_code: str | None = None
    unknown_duration_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFailure:
    """Why a call ended without a result, in our own words."""

    kind: FailureKind
    code: str
    error_class: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """A call as booked."""

    key: CallKey
    input_hash: str
    input: bytes
    state: CallState
    owner: str | None
    epoch: int
    lease_until: datetime | None
    result: bytes | None
    failure: CallFailure | None
    updated_at: datetime
    # A reply that answers where no better one comes, in its writer's own form.
    kept: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to write a call's outcome, until a later epoch exists."""

    key: CallKey
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The call is ours to make, with ``input``; ``attempt`` is committed, ``earlier`` are those before it.

    ``kept``: the reply that an earlier owner kept. ``over``: nothing may be sent any more, and why; the attempt is
    there to be closed by what was kept.
    """

    lease: Lease
    attempt: AttemptRow
    earlier: tuple[AttemptRow, ...]
    input: bytes
    input_hash: str
    kept: bytes | None = None
    over: CallFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The call has a result: the bytes of the event that was made of it. ``ended_at``: when it was booked."""

    result: bytes
    attempts: tuple[AttemptRow, ...]
    input: bytes
    input_hash: str
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The call will never have a result."""

    failure: CallFailure
    attempts: tuple[AttemptRow, ...]
    input: bytes
    input_hash: str
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Busy:
    """Another claim holds the lease for this much longer, unless it is renewed."""

    remaining_s: float


@dataclass(frozen=True, slots=True)
class Expired:
    """The request's ttl ended, or it was cancelled, before anything was spent; the journal holds nothing of it."""


Claim = Granted | Done | Ended | Busy | Expired
