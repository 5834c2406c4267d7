"""Outcomes that the journal refuses for good."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from processors.complete.unwritten import Outcome, Unwritten
from processors.journal import AttemptRow, CallKey, Ended, Granted, Lease, MemoryJournal, Offer, Settled
from schemas.errors import DependencyDownError
from tests.support.targets import target

TARGET = target("0.5")
BOUND = TARGET.bound
PAID = Settled(state="done", cost_usd=Decimal("0.1"))


class Picky(MemoryJournal):
    """A journal that takes no result of the calls named; ``strict``: nor their failure."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        self.strict = False

    async def finish(
        self, lease: Lease, attempt_id: str, settled: Settled, result: bytes, **more: Any
    ) -> tuple[AttemptRow, ...]:
        if lease.key.request_id in self.refused and not self.down:
            raise ValueError("a NUL in the response id")
        return await super().finish(lease, attempt_id, settled, result, **more)

    async def fail_attempt(self, lease: Lease, *args: Any, **more: Any) -> tuple[AttemptRow, ...]:
        if self.strict and lease.key.request_id in self.refused and not self.down:
            raise ValueError("nor that")
        return await super().fail_attempt(lease, *args, **more)

    def offer(self, request_id: str) -> Offer:
        key = CallKey(tenant="acme", lane="live", run="", request_id=request_id)
        return Offer(key=key, input_hash="h", input=b"i", target=TARGET, max_attempts=3)

    async def paid(self, request_id: str) -> Outcome:
        granted = await self.claim(self.offer(request_id), owner="w1")
        assert isinstance(granted, Granted)
        return Outcome(lease=granted.lease, attempt_id=granted.attempt.attempt_id, settled=PAID, result=b"r")


async def test_an_outcome_that_is_refused_for_good_ends_its_call_at_the_upper_bound() -> None:
    journal = Picky()
    journal.refused.add("r1")
    unwritten = Unwritten(journal)
    (row,) = await unwritten.book(await journal.paid("r1"))
    assert (row.state, row.error_code, row.cost_usd) == ("failed", "unrecordable_response", BOUND.usd)
    assert row.upper_bound and row.estimated
    ended = await journal.claim(journal.offer("r1"), owner="w2")
    assert isinstance(ended, Ended) and ended.failure.code == "unrecordable_response"
    assert len(unwritten) == 0


@pytest.mark.parametrize("strict", [False, True])
async def test_an_outcome_that_is_refused_does_not_hold_up_the_others(strict: bool) -> None:
    journal = Picky()
    unwritten = Unwritten(journal)
    outcomes = [await journal.paid(request_id) for request_id in ("r1", "r2")]
    journal.down = True
    for outcome in outcomes:
        with pytest.raises(DependencyDownError):
            await unwritten.book(outcome)
    assert len(unwritten) == 2
    journal.refused.add("r1")
    journal.down, journal.strict = False, strict
    await unwritten.book_all()
    assert len(unwritten) == 0
    assert journal.calls[outcomes[1].lease.key.call_id].state == "done"
