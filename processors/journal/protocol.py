"""The journal's rules, without storage: what a claim may do, and how an attempt's row changes.

Both adapters call these under a lock on the call's row, with the time by the clock that leases are measured with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from processors.control import cancelled_error
from processors.journal.entry import (
    WORKER_LOST,
    AttemptRow,
    Busy,
    CallFailure,
    CallRow,
    Done,
    Ended,
    Lease,
    Offer,
    Settled,
)
from schemas.records import Usage

# The code of an attempt whose reply came, was paid, and was judged wrong.
INVALID_OUTPUT = "invalid_output"
# The code of an attempt that was given up because the call's other one, sent beside it, had its reply first.
HEDGE_LOST = "hedge_lost"
# The code of an attempt that was opened for a batch, and whose provider takes none there: it was sent nowhere.
NOT_OFFERED = "batch_not_offered"
# So many workers may end in the middle of one call before the call itself is taken to be the cause.
CRASH_LOOP_EPOCHS = 3


@dataclass(frozen=True, slots=True)
class Take:
    """Grant the call under this epoch, with a new attempt of this number; ``over``: to be ended by what was kept."""

    epoch: int
    ordinal: int
    over: CallFailure | None = None


@dataclass(frozen=True, slots=True)
class End:
    """End the call with this failure."""

    failure: CallFailure


Decision = Done | Ended | Busy | Take | End


def is_expired(offer: Offer, now: datetime) -> bool:
    """Whether no call may be begun any more: the ttl is over, by either clock, or it was cancelled or refused."""
    unwanted = offer.expired or offer.cancelled or offer.refused is not None
    return unwanted or (offer.expires_at is not None and offer.expires_at <= now)


def open_attempts(attempts: Sequence[AttemptRow]) -> tuple[AttemptRow, ...]:
    """The attempts whose outcome nobody has booked: none, one, or two where a call is hedged."""
    return tuple(row for row in attempts if row.state == "calling")


def unheard(attempts: Sequence[AttemptRow], beside: str | None) -> AttemptRow | None:
    """The attempt that was committed though the reply to that was lost, and so was never sent, if there is one.

    ``beside`` is the id of the open attempt that was sent.
    """
    return next((row for row in open_attempts(attempts) if row.attempt_id != beside), None)


def decide(call: CallRow, attempts: Sequence[AttemptRow], offer: Offer, now: datetime) -> Decision:
    """What becomes of a claim on ``call``. ``Take`` and ``End`` first book an open attempt with ``lose``."""
    settled = stored(call, attempts)
    if settled is not None:
        return settled
    if call.state == "calling" and call.lease_until is not None and call.lease_until > now:
        return Busy((call.lease_until - now).total_seconds())
    stands = offer.stands and call.kept is not None
    if offer.cancelled or (offer.refused is not None and not stands):
        return End(offer.refused or CANCELLED)
    lost = bool(open_attempts(attempts))
    if lost and offer.unknown_policy == "fail":
        return End(INDETERMINATE)
    if lost and offer.if_lost is not None:
        return End(offer.if_lost)
    crashes = len({row.epoch for row in attempts if row.error_code == WORKER_LOST or row.state == "calling"})
    # What was kept may be the cause, too: one worker more ends the call without it.
    if crashes >= CRASH_LOOP_EPOCHS + stands:
        return End(CRASH_LOOP)
    if is_expired(replace(offer, refused=None), now):
        return End(EXPIRED)
    over = offer.refused or (CRASH_LOOP if crashes >= CRASH_LOOP_EPOCHS else None)
    if over is None and tries(attempts) >= offer.max_attempts:
        over = exhausted(attempts[-1], lost=lost)
    if over is not None and not stands:
        return End(over)
    return Take(call.epoch + 1, len(attempts), over)


def tries(attempts: Sequence[AttemptRow]) -> int:
    """The attempts that count against a route's limit; replies that were judged wrong have a limit of their own."""
    return sum(row.error_code not in (INVALID_OUTPUT, NOT_OFFERED) for row in attempts)


def stored(call: CallRow, attempts: Sequence[AttemptRow]) -> Done | Ended | None:
    """What the call ended with, if it has ended."""
    if call.state == "done" and call.result is not None:
        return Done(
            result=call.result,
            attempts=tuple(attempts),
            input=call.input,
            input_hash=call.input_hash,
            ended_at=call.updated_at,
        )
    if call.failure is not None:
        return Ended(
            failure=call.failure,
            attempts=tuple(attempts),
            input=call.input,
            input_hash=call.input_hash,
            ended_at=call.updated_at,
        )
    return None


def is_repeated(call: CallRow, attempts: Sequence[AttemptRow], lease: Lease, attempt_id: str, settled: Settled) -> bool:
    """Whether this outcome ended the call before: its transaction was committed, but the reply to it was lost."""
    state = next(row.state for row in attempts if row.attempt_id == attempt_id)
    return call.epoch == lease.epoch and call.state in ("done", "failed", "unknown") and state == settled.state


def closed(
    attempts: Sequence[AttemptRow], outcomes: Mapping[str, Settled], now: datetime
) -> tuple[tuple[AttemptRow, ...], tuple[AttemptRow, ...]]:
    """All attempts, and of them those that were changed, once these outcomes are booked; ids without a row are none."""
    rows = tuple(close(row, outcomes[row.attempt_id], now) if row.attempt_id in outcomes else row for row in attempts)
    return rows, tuple(row for row in rows if row.attempt_id in outcomes)


def close(row: AttemptRow, settled: Settled, now: datetime) -> AttemptRow:
    """The attempt with its outcome."""
    return replace(
        row,
        state=settled.state,
        ended_at=now,
        error_class=settled.error_class,
        error_code=settled.error_code,
        http_status=settled.http_status,
        response_id=settled.response_id,
        duration_ms=settled.duration_ms,
        first_token_ms=settled.first_token_ms,
        usage=settled.usage,
        cost_usd=settled.cost_usd,
        estimated=settled.estimated,
        upper_bound=settled.upper_bound,
    )


def lose(row: AttemptRow, now: datetime) -> AttemptRow:
    """The attempt of a worker that is gone: its outcome is unknown, its cost at most the bound."""
    return close(row, unknown(row, error_code=WORKER_LOST), now)


def unknown(row: AttemptRow, *, error_code: str, duration_ms: float | None = None) -> Settled:
    """An outcome that nobody saw, booked at its upper bound."""
    bound = row.target.bound
    return Settled(
        state="unknown",
        cost_usd=bound.usd,
        usage=bound_usage(row),
        estimated=True,
        upper_bound=True,
        error_class="unknown",
        error_code=error_code,
        duration_ms=duration_ms,
    )


def bound_usage(row: AttemptRow) -> Usage:
    """The most tokens that the attempt can have used."""
    bound = row.target.bound
    return Usage(prompt_tokens=bound.prompt_tokens, completion_tokens=bound.completion_tokens, estimated=True)


def settle_late(row: AttemptRow, settled: Settled, now: datetime) -> AttemptRow:
    """The attempt with an outcome that came after it was booked unknown; the time of that booking stays."""
    if row.late_at is not None or settled.state == "unknown" or row.state != "unknown":
        return row
    return replace(
        close(row, settled, now),
        ended_at=row.ended_at,
        late_at=now,
        unknown_code=row.error_code,
        unknown_duration_ms=row.duration_ms,
        duplicate=settled.cost_usd > Decimal(0) or settled.state == "done",
    )


def settled_late(
    attempts: Sequence[AttemptRow], outcomes: Mapping[str, Settled], now: datetime
) -> tuple[tuple[AttemptRow, ...], tuple[AttemptRow, ...]]:
    """As ``closed``, where the outcomes came after a later owner had booked the attempts."""
    rows = tuple(
        settle_late(row, outcomes[row.attempt_id], now) if row.attempt_id in outcomes else row for row in attempts
    )
    return rows, tuple(row for row in rows if row.attempt_id in outcomes)


def as_booked(row: AttemptRow) -> AttemptRow:
    """The attempt as it was booked before a late outcome came in, so that its cost event keeps its bytes."""
    if row.late_at is None:
        return row
    assert row.ended_at is not None
    # Rows that came in late before this was kept were told as lost.
    first = unknown(row, error_code=row.unknown_code or WORKER_LOST, duration_ms=row.unknown_duration_ms)
    booked = close(row, first, row.ended_at)
    return replace(booked, late_at=None, duplicate=False, unknown_code=None, unknown_duration_ms=None)


def exhausted(last: AttemptRow, *, lost: bool = False) -> CallFailure:
    """The failure of a call whose attempts are used up: the error of the last one."""
    code = WORKER_LOST if lost else last.error_code or "provider_unavailable"
    return CallFailure(
        kind="failed",
        code=code,
        error_class="unknown" if lost else last.error_class or "transient-provider",
        message=f"{last.ordinal + 1} attempts at deployment {last.target.deployment} failed, the last with {code}",
        retryable=True,
    )


EXPIRED = CallFailure(
    kind="expired",
    code="expired",
    error_class="policy",
    message="the request's ttl ended before a call to a model was answered; send it again with a longer ttl_ms",
    retryable=True,
)
_CANCEL = cancelled_error()
CANCELLED = CallFailure(kind="failed", code=_CANCEL.code, error_class=_CANCEL.error_class, message=str(_CANCEL))
INDETERMINATE = CallFailure(
    kind="indeterminate",
    code="indeterminate",
    error_class="unknown",
    message="the outcome of a paid call is unknown and its route forbids to repeat it",
)
CRASH_LOOP = CallFailure(
    kind="crash_loop",
    code="crash_loop",
    error_class="poison",
    message=f"{CRASH_LOOP_EPOCHS} workers ended in the middle of this request's call",
)
