"""The evaluate stage's memory holds the same whether it is kept in memory or in Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from processors.evaluate import EvaluationStore, FakeEvaluationStore, PostgresEvaluations
from processors.evaluate.store import Received, Subject
from processors.finality import PostgresFinality
from processors.postgres import Database
from schemas.errors import PoisonError
from schemas.records import Score
from tests.support.evaluating import answer
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

SCORES = (
    Score(name="length", scorer="word-count", scorer_version="1", value=0.5),
    Score(name="groundedness", scorer="sentence-cosine", scorer_version="1", failure_code="no_passages"),
)


@pytest.fixture
async def database(stack: TestStack) -> AsyncIterator[Database]:
    opened = await Database.open(stack.postgres_dsn, max_size=16)
    yield opened
    await opened.close()


@pytest.fixture(params=["postgres", "fake"])
async def store(request: pytest.FixtureRequest, database: Database) -> EvaluationStore:
    return PostgresEvaluations(database) if request.param == "postgres" else FakeEvaluationStore()


def subject(lane: str, event_id: str = "v1", *, answer_event_id: str = "e1") -> Subject:
    return Subject(
        tenant="acme",
        lane=lane,
        request_id="r1",
        event_id=event_id,
        answer_event_id=answer_event_id,
        source="sample",
    )


def told(lane: str, event_id: str = "f1", *, digest: str = "d1") -> Received:
    return Received(tenant="acme", lane=lane, request_id="r1", event_id=event_id, digest=digest, value=b"told")


async def test_an_answer_is_expected_once_and_the_first_evaluation_stays(store: EvaluationStore, lane: str) -> None:
    assert (await store.expect(subject(lane))).fresh
    again = await store.expect(subject(lane))
    assert (again.fresh, again.value) == (False, None)
    first = await store.finish(subject(lane), scores=SCORES, value=b"first", cost=b"cost")
    assert (first.fresh, first.value, first.cost) == (True, b"first", b"cost")
    second = await store.finish(subject(lane), scores=SCORES, value=b"second")
    assert (second.fresh, second.value, second.cost) == (False, b"first", b"cost")
    assert await store.expect(subject(lane)) == second


async def test_of_evaluations_that_race_one_is_fresh_and_all_give_its_bytes(store: EvaluationStore, lane: str) -> None:
    for number in range(10):
        one = subject(lane, f"v{number}")
        noted = await asyncio.gather(*(store.expect(one) for _ in range(8)))
        assert sum(each.fresh for each in noted) == 1
        values = [b"%d" % each for each in range(8)]
        done = await asyncio.gather(*(store.finish(one, scores=SCORES, value=value) for value in values))
        assert sum(each.fresh for each in done) == 1
        assert len({each.value for each in done}) == 1


async def test_feedback_waits_until_it_is_joined_and_is_then_seen_by_its_own_answer_alone(
    store: EvaluationStore, lane: str
) -> None:
    assert await store.receive(told(lane))
    assert not await store.receive(told(lane))
    assert await store.waiting(subject(lane)) == [b"told"]
    await store.joined(told(lane), "e1")
    await store.joined(told(lane), "e2")
    assert await store.waiting(subject(lane)) == [b"told"]
    assert await store.waiting(subject(lane, answer_event_id="e2")) == []
    assert await store.waiting(replace(subject(lane), request_id="r2")) == []


async def test_an_id_that_stands_for_other_feedback_is_refused(store: EvaluationStore, lane: str) -> None:
    await store.receive(told(lane))
    with pytest.raises(PoisonError, match="event_id"):
        await store.receive(told(lane, digest="d2"))
    assert await store.receive(told(f"{lane}x", digest="d2"))


async def test_a_final_answer_is_found_by_its_id_or_as_the_latest(database: Database, lane: str) -> None:
    finality, store = PostgresFinality(database), PostgresEvaluations(database)
    first = answer(meta={"lane": lane, "event_id": "e0"})
    assert await store.answer("acme", lane, "r1", None) is None
    await finality.claim(first, b"v0")
    await finality.claim(replace(first, meta=replace(first.meta, event_id="e1"), revision=1, supersedes="e0"), b"v1")
    assert await store.answer("acme", lane, "r1", None) == b"v1"
    assert await store.answer("acme", lane, "r1", "e0") == b"v0"
    assert await store.answer("acme", lane, "r1", "e9") is None
    assert await store.answer("other", lane, "r1", None) is None
