"""Claims and results of one worker that come together go in one statement, and none of them suffers from another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from processors.journal import (
    Busy,
    CallKey,
    Claim,
    Done,
    Expired,
    Granted,
    Offer,
    PostgresJournal,
    Settled,
)
from processors.postgres import Database
from schemas.errors import FencedError
from schemas.records import Usage
from tests.support.stack import TestStack
from tests.support.targets import bound, target

pytestmark = pytest.mark.stack

BOUND = bound("0.0000012345675")
TARGET = target(BOUND)
DONE = Settled(
    state="done",
    cost_usd=Decimal("0.0000000000015"),
    usage=Usage(
        prompt_tokens=9, completion_tokens=3, cached_prompt_tokens=1, reasoning_tokens=2, details={"b": 1, "a": 2}
    ),
    http_status=200,
    response_id="resp-1",
    duration_ms=12.5,
    first_token_ms=3.25,
)


class Counting(Database):
    """Counts what is executed; statements wait while ``hold`` is set."""

    hold: asyncio.Event | None = None
    statements = 0

    async def execute(self, *given: Any, **more: Any) -> list[tuple[Any, ...]]:
        self.statements += 1
        if self.hold is not None:
            await self.hold.wait()
        return await super().execute(*given, **more)


@pytest.fixture
async def database(stack: TestStack) -> AsyncIterator[Counting]:
    opened = await Counting.open(stack.postgres_dsn)
    assert isinstance(opened, Counting)
    yield opened
    await opened.close()


@pytest.fixture
def journal(database: Counting) -> PostgresJournal:
    return PostgresJournal(database)


def offer(lane: str, request_id: str, **changes: Any) -> Offer:
    key = CallKey(tenant="acme", lane=lane, run="", request_id=request_id)
    settings: dict[str, Any] = {"input_hash": "h1", "input": request_id.encode(), "target": TARGET, "max_attempts": 5}
    return Offer(key=key, **(settings | changes))


async def claimed(journal: PostgresJournal, offers: Sequence[Offer], owner: str = "w1") -> list[Claim]:
    return await asyncio.gather(*(journal.claim(one, owner=owner) for one in offers))


async def granted(journal: PostgresJournal, lane: str, *names: str) -> list[Granted]:
    claims = await claimed(journal, [offer(lane, name) for name in names])
    assert all(isinstance(claim, Granted) for claim in claims)
    return [claim for claim in claims if isinstance(claim, Granted)]


async def finish(journal: PostgresJournal, grant: Granted, result: bytes = b"r") -> Any:
    return await journal.finish(grant.lease, grant.attempt.attempt_id, DONE, result)


async def test_many_claims_and_results_take_few_statements_and_are_as_the_tables_have_them(
    database: Counting, journal: PostgresJournal, lane: str
) -> None:
    grants = await granted(journal, lane, *(f"r{n}" for n in range(40)))
    assert database.statements <= 3 and len({grant.lease.key for grant in grants}) == 40
    for grant in grants:
        assert await PostgresJournal(database).attempts_of(grant.lease.key) == (grant.attempt,)
    database.statements = 0
    rows = await asyncio.gather(*(finish(journal, grant, grant.input * 2) for grant in grants))
    assert database.statements <= 3
    told = [await journal.outcome_of(grant.lease.key) for grant in grants]
    assert database.statements <= 3, "what was booked here is known here"
    read = [await PostgresJournal(database).outcome_of(grant.lease.key) for grant in grants]
    assert told == read == [await journal.outcome_of(grant.lease.key) for grant in grants]
    for grant, done, booked in zip(grants, read, rows, strict=True):
        assert isinstance(done, Done) and (done.result, done.input) == (grant.input * 2, grant.input)
        assert done.attempts == booked and list(done.attempts[0].usage.details) == list(booked[0].usage.details)  # type: ignore[union-attr]


async def test_a_claim_that_is_new_busy_expired_or_done_gets_its_own_answer_beside_the_others(
    journal: PostgresJournal, lane: str
) -> None:
    _, done = await granted(journal, lane, "busy", "done")
    await finish(journal, done)
    past = datetime(2020, 1, 1, tzinfo=UTC)
    offers = [
        offer(lane, "new"),
        offer(lane, "busy"),
        offer(lane, "expired", expires_at=past),
        offer(lane, "unwanted", cancelled=True),
        offer(lane, "done"),
        offer(lane, "twice"),
        offer(lane, "twice"),
    ]
    claims = await claimed(journal, offers)
    assert [type(claim) for claim in claims[:5]] == [Granted, Busy, Expired, Expired, Done]
    assert Counter(type(claim) for claim in claims[5:]) == {Granted: 1, Busy: 1}
    assert await journal.attempts_of(offers[2].key) == ()


async def test_a_claim_that_the_tables_refuse_fails_alone(journal: PostgresJournal, lane: str) -> None:
    wrong = offer(lane, "wrong", target=replace(TARGET, model="no\0text"))
    first, refused, last = await asyncio.gather(
        *(journal.claim(one, owner="w1") for one in (offer(lane, "a"), wrong, offer(lane, "b"))), return_exceptions=True
    )
    assert isinstance(first, Granted) and isinstance(last, Granted)
    assert isinstance(refused, psycopg.Error)


async def test_a_result_that_the_tables_refuse_fails_alone(journal: PostgresJournal, lane: str) -> None:
    a, b, c = await granted(journal, lane, "a", "b", "c")
    wrong = replace(DONE, usage=Usage(prompt_tokens=2**63, completion_tokens=0))
    outcomes = await asyncio.gather(
        finish(journal, a),
        journal.finish(b.lease, b.attempt.attempt_id, wrong, b"r"),
        finish(journal, c),
        return_exceptions=True,
    )
    assert [isinstance(one, Exception) for one in outcomes] == [False, True, False]
    assert await journal.outcome_of(b.lease.key) is None


async def test_a_later_owner_refuses_one_result_of_several(database: Counting, lane: str) -> None:
    short, journal = PostgresJournal(database, lease_s=0.05), PostgresJournal(database)
    paused = await short.claim(offer(lane, "paused"), owner="w1")
    assert isinstance(paused, Granted)
    (other,) = await granted(journal, lane, "other")
    async with asyncio.timeout(30):
        later = await journal.claim(offer(lane, "paused"), owner="w2")
        while isinstance(later, Busy):
            later = await journal.claim(offer(lane, "paused"), owner="w2")
    assert isinstance(later, Granted) and later.lease.epoch == 2
    outcomes = await asyncio.gather(finish(short, paused, b"late"), finish(short, other), return_exceptions=True)
    assert isinstance(outcomes[0], FencedError) and not isinstance(outcomes[1], BaseException)
    await finish(journal, later, b"right")
    done = await short.outcome_of(paused.lease.key)
    assert isinstance(done, Done) and done.result == b"right" and done.attempts[0].late_at is not None


async def test_a_call_with_several_attempts_is_finished_with_all_of_them(journal: PostgresJournal, lane: str) -> None:
    (grant,) = await granted(journal, lane, "r")
    failed = Settled(state="failed", cost_usd=Decimal(0), error_code="http_500")
    await journal.fail_attempt(grant.lease, grant.attempt.attempt_id, failed)
    second = await journal.next_attempt(grant.lease, TARGET)
    rows = await journal.finish(grant.lease, second.attempt_id, DONE, b"r")
    done = await journal.outcome_of(grant.lease.key)
    assert isinstance(done, Done) and done.result == b"r"
    assert [row.state for row in rows] == [row.state for row in done.attempts] == ["failed", "done"]


async def test_a_result_is_booked_once_however_often_it_is_brought(journal: PostgresJournal, lane: str) -> None:
    (grant,) = await granted(journal, lane, "r")
    once, again = await asyncio.gather(finish(journal, grant), finish(journal, grant))
    assert once == again == await finish(journal, grant)


async def test_what_nobody_waits_for_any_more_leaves_no_call_behind(
    database: Counting, journal: PostgresJournal, lane: str
) -> None:
    database.hold = asyncio.Event()
    gone = [asyncio.ensure_future(journal.claim(offer(lane, name), owner="w1")) for name in ("sent", "waiting")]
    while not database.statements:
        await asyncio.sleep(0)
    stays = asyncio.ensure_future(journal.claim(offer(lane, "stays"), owner="w1"))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    database.hold.set()
    assert isinstance(await stays, Granted)
    async with asyncio.timeout(30):
        again = await claimed(journal, [offer(lane, name) for name in ("sent", "waiting")])
        while any(isinstance(claim, Busy) for claim in again):
            again = await claimed(journal, [offer(lane, name) for name in ("sent", "waiting")])
    # Nothing was sent, so nothing may count as lost.
    assert [(type(claim), getattr(claim, "earlier", None)) for claim in again] == [(Granted, ())] * 2


async def test_leases_are_renewed_while_results_of_the_same_calls_are_booked(
    journal: PostgresJournal, lane: str
) -> None:
    for round_ in range(5):
        grants = await granted(journal, lane, *(f"{round_}-{n}" for n in range(20)))
        leases = [grant.lease for grant in grants]
        renewed, *booked = await asyncio.gather(
            journal.renew("w1", leases), *(finish(journal, grant) for grant in reversed(grants))
        )
        assert len(renewed) <= 20 and len(booked) == 20
