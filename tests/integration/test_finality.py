"""Finality holds the same whether it is kept in memory or in Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from processors.finality import FakeFinality, Finality, PostgresFinality
from processors.postgres import Database
from schemas.errors import PoisonError
from schemas.records import Answer, Meta
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


@pytest.fixture
async def database(stack: TestStack) -> AsyncIterator[Database]:
    opened = await Database.open(stack.postgres_dsn, max_size=16)
    yield opened
    await opened.close()


@pytest.fixture(params=["postgres", "fake"])
async def finality(request: pytest.FixtureRequest, database: Database) -> Finality:
    return PostgresFinality(database) if request.param == "postgres" else FakeFinality()


def answer(lane: str, *, event_id: str = "e0", request_id: str = "r") -> Answer:
    return Answer(
        meta=Meta(event_id=event_id, request_id=request_id, tenant="acme", lane=lane),
        status="answered",
        decided_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


async def test_the_first_claim_wins_and_later_ones_get_its_bytes(finality: Finality, lane: str) -> None:
    assert await finality.claim(answer(lane), b"first") == b"first"
    assert await finality.claim(answer(lane, event_id="e1"), b"second") == b"first"
    stored = await finality.get("acme", lane, "r")
    assert stored is not None
    assert (stored.value, stored.event_id, stored.status, stored.revision) == (b"first", "e0", "answered", 0)


async def test_claims_that_race_all_get_the_same_bytes(finality: Finality, lane: str) -> None:
    for round_number in range(25):
        claims = [
            finality.claim(answer(lane, event_id=f"e{n}", request_id=f"r{round_number}"), b"%d" % n) for n in range(16)
        ]
        assert len(set(await asyncio.gather(*claims))) == 1


async def test_answers_that_come_together_are_each_made_final(finality: Finality, lane: str) -> None:
    await finality.claim(answer(lane, request_id="old"), b"old")
    given = [(answer(lane, request_id=f"r{n}"), b"%d" % n) for n in range(40)]
    again = answer(lane, event_id="e1", request_id="old")
    revised = replace(answer(lane, event_id="e2", request_id="old"), revision=1, supersedes="e0")
    wrong = replace(answer(lane, event_id="e3", request_id="r0"), revision=2, supersedes="e9")
    odd = answer(lane, request_id="no\0text")
    claims = [*given, (again, b"again"), (revised, b"revised"), (wrong, b"wrong"), (odd, b"odd")]
    told = await asyncio.gather(*(finality.claim(*one) for one in claims), return_exceptions=True)
    assert told[:42] == [*(value for _, value in given), b"old", b"revised"]
    assert isinstance(told[42], PoisonError)
    assert isinstance(finality, FakeFinality) or isinstance(told[43], Exception), "one that can't be stored fails alone"


async def test_a_claim_that_waited_for_another_one_sees_it(database: Database, lane: str) -> None:
    """The other's insert commits after the claim's statement took its snapshot."""
    finality = PostgresFinality(database)
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO finals (tenant, lane, request_id, revision, event_id, status, answer) "
            "VALUES ('acme', %s, 'r', 0, 'other', 'failed', 'theirs')",
            [lane],
        )
        claim = asyncio.create_task(finality.claim(answer(lane), b"mine"))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%INTO finals%%'"
        )
        async with asyncio.timeout(60):
            while (await database.execute(waiting, []))[0][0] == 0:
                await asyncio.sleep(0.01)
    assert await claim == b"theirs"


async def test_tenants_lanes_and_requests_are_apart(finality: Finality, lane: str) -> None:
    await finality.claim(answer(lane), b"here")
    other = answer(lane)
    other = replace(other, meta=replace(other.meta, tenant="umbrella"))
    assert await finality.claim(other, b"there") == b"there"
    assert await finality.claim(answer(f"{lane}x"), b"elsewhere") == b"elsewhere"
    assert await finality.get("acme", lane, "unheard-of") is None


async def test_a_revision_replaces_the_one_before_it(finality: Finality, lane: str) -> None:
    await finality.claim(answer(lane, event_id="e0"), b"v0")
    second = replace(answer(lane, event_id="e1"), revision=1, supersedes="e0")
    assert await finality.claim(second, b"v1") == b"v1"
    assert await finality.claim(replace(second, meta=replace(second.meta, event_id="e9")), b"v1b") == b"v1"
    stored = await finality.get("acme", lane, "r")
    assert stored is not None
    assert (stored.revision, stored.value) == (1, b"v1")
    assert await finality.claim(answer(lane), b"late") == b"v0"


@pytest.mark.parametrize(
    ("revision", "supersedes"),
    [(1, "not-the-one-before"), (2, "e0"), (1, None), (0, "e0"), (-1, None), (-1, "e0")],
)
async def test_a_revision_out_of_order_is_refused(
    finality: Finality, lane: str, revision: int, supersedes: str | None
) -> None:
    await finality.claim(answer(lane), b"v0")
    with pytest.raises(PoisonError, match="supersedes"):
        await finality.claim(replace(answer(lane, event_id="e1"), revision=revision, supersedes=supersedes), b"v1")
    stored = await finality.get("acme", lane, "r")
    assert stored is not None
    assert stored.value == b"v0"


async def test_an_answer_of_no_request_is_refused(finality: Finality, lane: str) -> None:
    with pytest.raises(PoisonError, match="request id"):
        await finality.claim(answer(lane, request_id=""), b"v0")


async def test_any_bytes_come_back_as_they_were(finality: Finality, lane: str) -> None:
    value = bytes(range(256)) * 4096
    assert await finality.claim(answer(lane), value) == value
    assert await finality.claim(answer(lane), b"") == value
