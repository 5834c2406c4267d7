"""The cap of a tenant on a real Postgres: never more than its number, and a place is free with the final answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from processors.admit.in_flight import Entering, PostgresInFlight
from processors.deferred import Deferred, PostgresDeferred
from processors.finality import PostgresFinality
from processors.postgres import Database
from schemas.records import Answer, Meta
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


@pytest.fixture
async def database(stack: TestStack) -> AsyncIterator[Database]:
    opened = await Database.open(stack.postgres_dsn, max_size=8)
    yield opened
    await opened.close()


def entering(name: str, *, left_s: float = 600) -> Entering:
    return Entering(request_id=name, until=datetime.now(UTC) + timedelta(seconds=left_s))


async def test_eight_workers_let_in_no_more_than_the_cap(database: Database, lane: str) -> None:
    workers = [PostgresInFlight(database) for _ in range(8)]
    names = [[f"w{n}-{m}" for m in range(5)] for n in range(8)]
    inside = await asyncio.gather(
        *(
            worker.enter(lane, "acme", 7, [entering(name) for name in mine])
            for worker, mine in zip(workers, names, strict=True)
        )
    )
    assert sum(map(len, inside)) == 7
    assert await workers[0].room(lane, "acme", 7) == 0 and await workers[0].room(lane, "other", 7) == 7
    mine = next(each for each in inside if each)
    assert await workers[1].enter(lane, "acme", 7, [entering(name) for name in mine]) == mine, "it is in already"


async def test_a_place_is_free_when_the_answer_is_final_or_the_time_to_live_is_over(
    database: Database, lane: str
) -> None:
    door = PostgresInFlight(database)
    assert await door.enter(lane, "acme", 2, [entering("r1"), entering("r2"), entering("r3")]) == {"r1", "r2"}
    answer = Answer(meta=Meta(event_id="e", request_id="r1", tenant="acme", lane=lane), status="rejected")
    await PostgresFinality(database).claim(answer, b"answer")
    assert await door.enter(lane, "acme", 2, [entering("r3", left_s=-1)]) == {"r3"}
    assert await door.enter(lane, "acme", 2, [entering("r4")]) == {"r4"}, "the one before it has expired"
    await door.leave(lane, "acme", "r4")
    assert await door.room(lane, "acme", 2) == 1


async def test_nobody_new_is_let_in_while_others_wait(database: Database, lane: str) -> None:
    door, deferred = PostgresInFlight(database), PostgresDeferred(database)
    at = datetime.now(UTC)
    waiting = Deferred(
        lane=lane,
        stage="admit",
        run="",
        event_id="e0",
        topic_kind="requests",
        key=b"r0",
        value=b"v",
        headers=(),
        tenant="acme",
        route="",
        priority="normal",
        request_id="r0",
        accepted_at=at,
        expires_at=None,
        reason="tenant.max_in_flight",
    )
    await deferred.store(waiting)
    assert not await door.enter(lane, "acme", 2, [entering("new")])
    assert await door.enter(lane, "acme", 2, [entering("r0")], first=True) == {"r0"}
    assert await door.enter(lane, "globex", 2, [entering("new")]) == {"new"}
