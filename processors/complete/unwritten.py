"""Outcomes that the journal could not take yet: a response that reached us must outlive an outage of Postgres."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from processors.journal import AttemptRow, CallFailure, CallKey, Journal, Lease, Settled
from processors.journal.protocol import bound_usage
from schemas.errors import DependencyDownError, FencedError

_LOG = logging.getLogger(__name__)

UNRECORDABLE = CallFailure(
    kind="failed",
    code="unrecordable_response",
    error_class="poison",
    message="the model's response could not be booked; it may have been paid, and is booked at its upper bound",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an attempt: a result, a failure that ends the call, or neither; ``keep``: its reply is kept."""

    lease: Lease
    attempt_id: str
    settled: Settled | None = None
    result: bytes | None = None
    failure: CallFailure | None = None
    keep: bytes | None = None
    # What became of the attempt that was open beside it.
    others: Mapping[str, Settled] = field(default_factory=dict)


class Unwritten:
    """Books outcomes, and keeps those that could not be booked. At most one for each event in flight."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._kept: dict[str, Outcome] = {}
        self._booking: set[str] = set()

    def __len__(self) -> int:
        return len(self._kept)

    async def book(self, outcome: Outcome) -> tuple[AttemptRow, ...]:
        """Book the outcome; returns all attempts. Kept when it raises ``DependencyDownError`` or is cancelled.

        One that the journal refuses for good is booked as an unrecordable response, and ends the call.
        """
        call_id = outcome.lease.key.call_id
        self._kept[call_id] = outcome
        self._booking.add(call_id)
        try:
            rows = await self._write_or_give_up(outcome)
        except DependencyDownError:
            raise
        except Exception:
            self._forget(call_id, outcome)
            raise
        finally:
            self._booking.discard(call_id)
        self._forget(call_id, outcome)
        return rows

    async def book_kept(self, key: CallKey) -> None:
        """Book what was kept for a call. Raises ``DependencyDownError``; an outcome that comes too late is dropped."""
        outcome = self._kept.get(key.call_id)
        if outcome is not None:
            with suppress(FencedError):
                await self.book(outcome)

    async def book_all(self) -> None:
        """Book all that was kept, of events too that are another worker's by now. Raises ``DependencyDownError``."""
        for call_id, outcome in tuple(self._kept.items()):
            if call_id not in self._booking:
                try:
                    await self.book_kept(outcome.lease.key)
                except DependencyDownError:
                    raise
                except Exception as error:
                    # The others must not wait for it. Without the message, which may hold a value.
                    _LOG.error("an outcome of call %s can not be booked: %s", call_id, type(error).__name__)

    def _forget(self, call_id: str, outcome: Outcome) -> None:
        if self._kept.get(call_id) is outcome:
            del self._kept[call_id]

    async def _write_or_give_up(self, outcome: Outcome) -> tuple[AttemptRow, ...]:
        try:
            return await self._write(outcome)
        except (DependencyDownError, FencedError):
            raise
        except Exception as error:
            _LOG.error("the journal refused an outcome of call %s: %s", outcome.lease.key.call_id, type(error).__name__)
        rows = await self._journal.attempts_of(outcome.lease.key)
        row = next(row for row in rows if row.attempt_id == outcome.attempt_id)
        others = {one.attempt_id: _unrecordable(one) for one in rows if one.attempt_id in outcome.others}
        return await self._journal.fail_attempt(
            outcome.lease, outcome.attempt_id, _unrecordable(row), UNRECORDABLE, others=others
        )

    async def _write(self, outcome: Outcome) -> tuple[AttemptRow, ...]:
        assert outcome.settled is not None
        if outcome.result is not None:
            return await self._journal.finish(
                outcome.lease, outcome.attempt_id, outcome.settled, outcome.result, others=outcome.others
            )
        return await self._journal.fail_attempt(
            outcome.lease,
            outcome.attempt_id,
            outcome.settled,
            outcome.failure,
            others=outcome.others,
            keep=outcome.keep,
        )


def _unrecordable(row: AttemptRow) -> Settled:
    """Nothing of the response, in which the journal found fault: only that it cost the bound at most."""
    return Settled(
        state="failed",
        cost_usd=row.target.bound.usd,
        usage=bound_usage(row),
        estimated=True,
        upper_bound=True,
        error_class=UNRECORDABLE.error_class,
        error_code=UNRECORDABLE.code,
    )
