"""When an attempt is followed by another one, and after how long."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from processors.complete.routes import Route
from processors.journal import AttemptRow, CallFailure
from processors.journal.protocol import INDETERMINATE, tries
from schemas.errors import OutcomeUnknownError, ProviderError, TransientProviderError


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off with full jitter, so that workers do not come back together."""

    first_s: float = 0.5
    longest_s: float = 20.0

    def delay_s(self, attempt: int, random_: random.Random) -> float:
        """The wait after the ``attempt``-th attempt, from 0."""
        return random_.uniform(0, min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30)))


STREAM_BROKEN = CallFailure(
    kind="failed",
    code="stream_broken",
    error_class="unknown",
    message="the model's stream broke off after some of its text had been published, and the route starts no second",
    retryable=True,
)


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Try again after so long."""

    seconds: float


def after_error(
    error: ProviderError,
    attempts: Sequence[AttemptRow],
    route: Route,
    *,
    backoff: Backoff,
    random_: random.Random,
    left_s: float,
) -> RetryIn | CallFailure:
    """What follows ``error``, which ended the last of ``attempts``. ``left_s`` is the time that a retry may wait."""
    if not isinstance(error, TransientProviderError | OutcomeUnknownError):
        return failure_of(error)
    if isinstance(error, OutcomeUnknownError):
        if route.unknown_policy == "fail":
            return INDETERMINATE
        # The other unknown one may be a worker's that is gone: two calls that were perhaps paid are enough.
        if any(row.state == "unknown" for row in attempts[:-1]):
            return failure_of(error)
    if tries(attempts) >= route.max_attempts:
        return failure_of(error)
    delay_s = backoff.delay_s(len(attempts) - 1, random_)
    if isinstance(error, TransientProviderError) and error.retry_after_s is not None:
        delay_s += error.retry_after_s
    return RetryIn(delay_s) if delay_s < left_s else failure_of(error)


def after_break(error: ProviderError, verdict: RetryIn | CallFailure, route: Route) -> RetryIn | CallFailure:
    """What follows ``error`` when some of the attempt's text may be public; ``verdict`` is what would follow else."""
    if route.on_break == "restart" or verdict == INDETERMINATE:
        return verdict
    return replace(STREAM_BROKEN, error_class=error.error_class)


def failure_of(error: ProviderError) -> CallFailure:
    """The call's failure for the error that ended its last attempt."""
    return CallFailure(
        kind="failed",
        code=error.code,
        error_class=error.error_class,
        message=str(error),
        retryable=error.retryable,
    )
