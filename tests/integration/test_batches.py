"""Calls that go by batch on real Postgres and HTTP: killed between durable steps, judged by the provider's own log."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from processors.batchapi.entry import Item
from processors.batchapi.postgres import PostgresBatches
from processors.control import Pause
from processors.deferred import Deferred, PostgresDeferred
from processors.failpoints import BATCH_NAMES
from processors.journal import AttemptRow, CallKey, PostgresJournal
from processors.postgres import Database
from streams.draining import look
from tests.provider.process import ProviderProcess
from tests.support.batch_worker import Gone, run
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

SIDE_BY_SIDE = 3
REQUESTS = ("r1", "r2", "r3")


@dataclass(frozen=True, slots=True)
class Case:
    """A fail point, and how the first attempt of each request ends when its worker died there."""

    point: str
    first: str = "done"
    cancelled: bool = False
    # The requests are identical, and so is the answer of them all: the first one's.
    cached: bool = False


CASES = (
    Case("after_batch_item"),
    Case("after_batch_follow", cached=True),
    Case("after_batch_begun"),
    Case("after_batch_claims"),
    Case("after_batch_upload"),
    # Nothing was made, and nobody can tell: booked unknown, and called again.
    Case("before_batch_create", first="unknown"),
    Case("after_batch_create"),
    Case("after_batch_replies"),
    Case("after_batch_results"),
    Case("after_batch_adoption"),
    # Its reply is booked when it comes.
    Case("after_batch_withdrawal", cancelled=True),
)


class Lives:
    """Workers of a lane's requests, one after the other."""

    def __init__(self, stack: TestStack, provider: ProviderProcess, database: Database, lane: str) -> None:
        self.provider, self.database, self.lane = provider, database, lane
        self.requests = [f"{lane}-{one}" for one in REQUESTS]
        self.plan: dict[str, Any] = {
            "dsn": stack.postgres_dsn,
            "base_url": provider.base_url,
            "lane": lane,
            "requests": self.requests,
        }

    async def live(self, **more: Any) -> dict[str, list[str]] | None:
        """What a worker's requests came to; ``None`` where its fail point ended it."""
        try:
            return await run(self.plan | more)
        except Gone:
            return None

    async def attempts(self, request_id: str) -> tuple[AttemptRow, ...]:
        return await PostgresJournal(self.database).attempts_of(self.key(request_id))

    def key(self, request_id: str) -> CallKey:
        return CallKey(tenant="acme", lane=self.lane, run="", request_id=request_id)

    def paid(self, request_id: str) -> int:
        """What the provider would charge for the request, by batch or not."""
        paid = self.provider.paid()
        return paid[self.key(request_id).call_id] + paid[request_id]

    async def reserved(self) -> Decimal:
        rows = await self.database.execute("SELECT reserved FROM budgets WHERE budget = %s", (self.lane,))
        return Decimal(sum(row[0] for row in rows))


def test_every_fail_point_of_batches_has_a_case() -> None:
    assert {case.point for case in CASES} == set(BATCH_NAMES)


async def test_a_kill_anywhere_loses_nothing_pays_once_and_leaks_no_budget(
    stack: TestStack, provider: ProviderProcess, database: Database, lane: str
) -> None:
    room = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(case: Case) -> list[str]:
        async with room:
            lives = Lives(stack, provider, database, f"{lane}{CASES.index(case)}")
            return await _judged(lives, case)

    found = await asyncio.gather(*(one(case) for case in CASES))
    assert {case.point: wrong for case, wrong in zip(CASES, found, strict=True) if wrong} == {}


async def _judged(lives: Lives, case: Case) -> list[str]:
    """What is not as it should be after a kill there and a second life."""
    wrong = []
    cancelled: dict[str, Any] = {"cancelled": lives.requests} if case.cancelled else {}
    cancelled |= {"cache": case.cached}
    if case.cancelled:
        # The batch has to be made before anything is cancelled in it.
        wrong += ["it was not made"] * (await lives.live(failpoint="after_batch_create") is not None)
    wrong += ["it lived on"] * (await lives.live(failpoint=case.point, **cancelled) is not None)
    outputs = await lives.live(**cancelled, late=case.cancelled) or {}
    wrong += [f"{one} has no outputs" for one in lives.requests if one not in outputs]
    for number, request_id in enumerate(lives.requests):
        rows, paid = await lives.attempts(request_id), lives.paid(request_id)
        last = "Answer" if case.cancelled else "Completion"
        if case.cached and number:
            wrong += [f"{request_id} was paid {paid} times: {rows}"] * bool(paid or rows)
            rows, paid = await lives.attempts(lives.requests[0]), lives.paid(lives.requests[0])
        if paid != 1 or rows[0].state != case.first:
            wrong.append(f"{request_id}: {[(row.state, row.error_code, row.target.price_source) for row in rows]}")
        if paid != 1:
            wrong.append(f"{request_id} was paid {paid} times")
        if rows[0].state == "done" and not rows[0].target.price_source.endswith("x 0.5 (batch)"):
            wrong.append(f"{request_id} is priced by {rows[0].target.price_source}")
        if outputs.get(request_id, [""])[-1].split()[0] != last:
            wrong.append(f"{request_id} ended in {outputs.get(request_id)}")
    reserved = await lives.reserved()
    wrong += [f"{reserved} is still reserved"] * (reserved != 0)
    if not case.cancelled and await lives.live(**cancelled) != outputs:
        wrong.append("a redelivery gave other bytes")
    return wrong


async def test_whoever_follows_a_call_comes_back_when_it_has_ended(database: Database, lane: str) -> None:
    store, aside = PostgresBatches(database), PostgresDeferred(database)
    leader, follower = (CallKey(tenant="acme", lane=lane, run="", request_id=one) for one in ("r1", "r2"))
    await store.add(Item(key=leader, deployment="d1", route="default", event_id="e1", input=b"i"))
    assert await store.follow(leader.call_id, follower, "e2")
    await aside.store(
        Deferred(
            lane=lane,
            stage="complete",
            run="",
            event_id="e2",
            topic_kind="enrichments.normal",
            key=None,
            value=b"v",
            headers=(),
            tenant="acme",
            route="default",
            priority="normal",
            request_id="r2",
            accepted_at=datetime.now(UTC),
            expires_at=None,
            reason="batch/d1",
            wait_s=3600.0,
        )
    )

    async def due() -> list[str]:
        taken = await aside.take_due(lane, "complete", ("acme", "default"), limit=9, hold_s=0.0)
        return [one.event.event_id for one in taken]

    assert await store.move(leader.call_id, was="waiting", now="returned") and await due() == []
    assert not await store.follow(leader.call_id, follower, "e2"), "no batch will answer it"
    assert await store.move(leader.call_id, was="returned", now="done") and await due() == ["e2"]
    assert await store.followed(follower.call_id) == leader.call_id
    assert await store.followed(follower.call_id) is None


async def test_a_drain_does_not_wait_for_what_a_provider_has(
    stack: TestStack, provider: ProviderProcess, database: Database, lane: str
) -> None:
    lives = Lives(stack, provider, database, lane)
    assert await lives.live(failpoint="after_batch_create") is None
    pause = Pause(kind="tenant", name="acme", since=datetime.now(UTC), offset=0)
    assert [row.state for row in await lives.attempts(lives.requests[0])] == ["calling"]
    assert (await look(database, pause, lane=lane)).calls == 0


@pytest.mark.parametrize("without", ["files", "batches"])
async def test_requests_are_called_one_by_one_where_a_provider_serves_no_batches(
    stack: TestStack, provider: ProviderProcess, database: Database, lane: str, without: str
) -> None:
    lives = Lives(stack, provider, database, lane)
    async with httpx2.AsyncClient() as client:
        await client.post(f"{provider.url}/script", json={"batch": {"without": without}})
        try:
            outputs = await lives.live()
        finally:
            await client.post(f"{provider.url}/script", json={"batch": {}})
    assert outputs is not None
    assert {told[-1].split()[0] for told in outputs.values()} == {"Completion"}
    for request_id in lives.requests:
        rows = await lives.attempts(request_id)
        assert [(row.state, row.error_code, row.cost_usd == 0) for row in rows] == [
            ("failed", "batch_not_offered", True),
            ("done", None, False),
        ]
    assert [lives.paid(one) for one in lives.requests] == [1, 1, 1]
    assert await lives.reserved() == 0


@pytest.mark.parametrize("again", ["call", "batch"])
async def test_what_an_expired_batch_left_is_answered_within_the_same_request(
    stack: TestStack, provider: ProviderProcess, database: Database, lane: str, again: str
) -> None:
    lives = Lives(stack, provider, database, lane)
    async with httpx2.AsyncClient() as client:
        await client.post(f"{provider.url}/script", json={"batch": {"turns": 2, "end": "expired"}})
        try:
            outputs = await lives.live(again=again)
        finally:
            await client.post(f"{provider.url}/script", json={"batch": {"turns": 2, "end": "completed"}})
    assert outputs is not None
    assert len(outputs) == len(REQUESTS)
    states = [[row.error_code for row in await lives.attempts(one)] for one in lives.requests]
    assert {tuple(each) for each in states} <= {(None,), ("batch_expired", None), ("batch_expired",) * 2 + (None,)}
    assert any(len(each) > 1 for each in states)
    assert [lives.paid(one) for one in lives.requests] == [1, 1, 1]
