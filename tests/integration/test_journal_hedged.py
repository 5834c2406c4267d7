"""Two attempts of one call that are open at once, in Postgres and in memory: both are booked, whatever happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal

import pytest

from processors.journal import Busy, Done, Ended, Granted, Offer
from processors.journal.entry import WORKER_LOST
from processors.journal.protocol import CRASH_LOOP_EPOCHS, HEDGE_LOST, INDETERMINATE, unknown
from processors.postgres import Database
from schemas.errors import FencedError
from tests.integration.test_journal import DONE, FAILED, GIVEN_UP, TARGET, offer
from tests.support.leases import LapsingJournal, LapsingMemory
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

ELSEWHERE = replace(TARGET, deployment="d2")
Lapsing = LapsingJournal | LapsingMemory


@pytest.fixture(params=["postgres", "memory"])
async def journal(request: pytest.FixtureRequest, stack: TestStack) -> AsyncIterator[Lapsing]:
    if request.param == "memory":
        yield LapsingMemory()
        return
    database = await Database.open(stack.postgres_dsn)
    yield LapsingJournal(database)
    await database.close()


async def granted(journal: Lapsing, wanted: Offer, owner: str = "w1") -> Granted:
    """The grant, once the lease of whoever holds it is over."""
    claim = await journal.claim(wanted, owner=owner)
    if isinstance(claim, Busy):
        await journal.lapse(wanted.key)
        claim = await journal.claim(wanted, owner=owner)
    assert isinstance(claim, Granted)
    return claim


async def test_a_second_attempt_is_opened_beside_the_first_once(journal: Lapsing, lane: str) -> None:
    grant = await granted(journal, offer(lane))
    first = grant.attempt
    second = await journal.next_attempt(grant.lease, ELSEWHERE, beside=first.attempt_id)
    assert (second.ordinal, second.state, second.target.deployment) == (1, "calling", "d2")
    # Its reply was lost, and it is asked for once more.
    assert await journal.next_attempt(grant.lease, ELSEWHERE, beside=first.attempt_id) == second
    assert await journal.attempts_of(grant.lease.key) == (first, second)


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_end_of_a_call_books_both_in_one_step(journal: Lapsing, lane: str, winner: int) -> None:
    grant = await granted(journal, offer(lane))
    pair = grant.attempt, await journal.next_attempt(grant.lease, ELSEWHERE, beside=grant.attempt.attempt_id)
    won, lost = pair[winner], pair[1 - winner]
    given_up = unknown(lost, error_code=HEDGE_LOST, duration_ms=5.0)
    for _ in range(2):  # a finish whose reply was lost comes twice
        rows = await journal.finish(grant.lease, won.attempt_id, DONE, b"won", others={lost.attempt_id: given_up})
        assert (rows[winner].state, rows[winner].usage) == ("done", DONE.usage)
        loser = rows[1 - winner]
        assert (loser.state, loser.error_code, loser.cost_usd) == ("unknown", HEDGE_LOST, lost.target.bound.usd)
        assert loser.estimated and loser.upper_bound
    claim = await journal.claim(offer(lane), owner="w2")
    assert isinstance(claim, Done) and claim.result == b"won" and claim.attempts == rows


async def test_both_fail_in_one_step_and_an_attempt_that_is_not_there_is_none(journal: Lapsing, lane: str) -> None:
    grant = await granted(journal, offer(lane))
    second = await journal.next_attempt(grant.lease, ELSEWHERE, beside=grant.attempt.attempt_id)
    others = {second.attempt_id: FAILED, grant.lease.key.attempt_id(7): FAILED}
    rows = await journal.fail_attempt(grant.lease, grant.attempt.attempt_id, FAILED, others=others)
    assert [row.state for row in rows] == ["failed", "failed"]
    # The call goes on, with an attempt of its own.
    third = await journal.next_attempt(grant.lease, TARGET)
    assert third.ordinal == 2
    await journal.fail_attempt(grant.lease, third.attempt_id, FAILED, GIVEN_UP)
    assert isinstance(await journal.claim(offer(lane), owner="w2"), Ended)


async def test_a_crash_with_both_open_books_both_as_unknown_at_their_bounds(journal: Lapsing, lane: str) -> None:
    grant = await granted(journal, offer(lane))
    dearer = replace(ELSEWHERE, bound=replace(TARGET.bound, usd=Decimal("0.5")))
    second = await journal.next_attempt(grant.lease, dearer, beside=grant.attempt.attempt_id)
    taken = await granted(journal, offer(lane), "w2")
    assert [(row.state, row.error_code, row.cost_usd) for row in taken.earlier] == [
        ("unknown", WORKER_LOST, TARGET.bound.usd),
        ("unknown", WORKER_LOST, Decimal("0.5")),
    ]
    assert taken.attempt.ordinal == 2
    with pytest.raises(FencedError):
        others = {second.attempt_id: replace(DONE, state="failed", usage=None)}
        await journal.finish(grant.lease, grant.attempt.attempt_id, DONE, b"late", others=others)
    rows = await journal.attempts_of(grant.lease.key)
    assert [row.state for row in rows] == ["done", "failed", "calling"] and all(row.late_at for row in rows[:2])


async def test_the_two_attempts_of_a_lost_worker_count_as_one_crash(journal: Lapsing, lane: str) -> None:
    grant = await granted(journal, offer(lane, max_attempts=20))
    await journal.next_attempt(grant.lease, ELSEWHERE, beside=grant.attempt.attempt_id)
    for crash in range(1, CRASH_LOOP_EPOCHS):
        again = await granted(journal, offer(lane, max_attempts=20), f"w{crash}")
        assert again.lease.epoch == crash + 1


async def test_where_nothing_is_repeated_the_loss_of_both_ends_the_call(journal: Lapsing, lane: str) -> None:
    grant = await granted(journal, offer(lane))
    await journal.next_attempt(grant.lease, ELSEWHERE, beside=grant.attempt.attempt_id)
    await journal.lapse(grant.lease.key)
    claim = await journal.claim(offer(lane, unknown_policy="fail"), owner="w2")
    assert isinstance(claim, Ended) and claim.failure == INDETERMINATE
    assert [row.state for row in claim.attempts] == ["unknown", "unknown"]
