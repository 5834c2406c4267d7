"""Caches and single flight on real Postgres and HTTP; what was paid is judged by the provider's own log."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from processors.cache import CachePolicy, Caches, PostgresCacheStore
from processors.clock import DatabaseClock
from processors.complete.processor import Complete
from processors.complete.routes import Deployment, Route
from processors.control import FakeControl
from processors.embeddings import HashingEmbedder
from processors.event import Incoming, Recorded
from processors.journal import PostgresJournal
from processors.model import OpenAIClient
from processors.postgres import Database
from schemas.records import Completion, Enrichment
from streams.purging import Purge
from streams.retention import TABLES, Retention
from tests.provider.process import ProviderProcess
from tests.support.complete_worker import CODEC, die, digests
from tests.support.complete_worker import run as live
from tests.support.enrichments import enrichment, incoming
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
POLICY = CachePolicy(exact=True, semantic=True, single_flight=True, similarity=0.8)


class Workers:
    """As many workers as a test wants, each with its own connections and its own level in the process."""

    def __init__(self, dsn: str, provider: ProviderProcess, lane: str, stack: AsyncExitStack) -> None:
        self._dsn, self._provider, self._lane, self._stack = dsn, provider, lane, stack
        self.clock = DatabaseClock()

    async def worker(self, owner: str) -> Complete:
        database = await Database.open(self._dsn)
        self._stack.push_async_callback(database.close)
        self.clock.set(await database.now())
        client = OpenAIClient()
        self._stack.push_async_callback(client.close)
        journal = PostgresJournal(database, lease_s=60.0)
        caches = Caches(
            PostgresCacheStore(database),
            journal,
            policies={"default": POLICY},
            codec=CODEC,
            clock=self.clock,
            embedder=HashingEmbedder(),
        )
        deployment = Deployment(name="d1", model="fake", base_url=self._provider.base_url, max_concurrency=4)
        stage = Complete(
            journal,
            client,
            routes={"default": Route(name="default", deployment=deployment)},
            codec=CODEC,
            clock=self.clock,
            control=FakeControl(),
            owner=f"{owner}-{self._lane}",
            caches=caches,
            timeout_s=180.0,
        )
        stage.start()
        self._stack.push_async_callback(stage.stop)
        return stage

    def event(self, number: int, text: str) -> Incoming[Enrichment]:
        record = enrichment(f"{self._lane}-{number}", text, lane=self._lane, expires_at=None)
        return replace(incoming(record, CODEC), appended_at=self.clock.now())

    def paid(self) -> int:
        return sum(paid for request, paid in self._provider.paid().items() if request.startswith(self._lane))


@asynccontextmanager
async def several(stack: TestStack, provider: ProviderProcess, lane: str) -> AsyncIterator[Workers]:
    async with AsyncExitStack() as opened:
        yield Workers(stack.postgres_dsn, provider, lane, opened)


def completion(outputs: Any) -> Completion:
    last = outputs[-1]
    record = last.record if isinstance(last, Recorded) else last
    assert isinstance(record, Completion)
    return record


async def test_a_hundred_identical_requests_on_two_workers_are_one_paid_call(
    stack: TestStack, provider: ProviderProcess, lane: str
) -> None:
    async with several(stack, provider, lane) as workers:
        stages = [await workers.worker("a"), await workers.worker("b")]
        events = [workers.event(number, f"why, {lane}? [[fault:slow:1]]") for number in range(100)]
        outputs = await asyncio.gather(*(stages[n % 2](event) for n, event in enumerate(events)))

        assert workers.paid() == 1
        assert Counter(completion(one).served_by for one in outputs) == {"model": 1, "cache-exact": 99}
        [leader] = [one for one in map(completion, outputs) if one.served_by == "model"]
        assert {completion(one).source_event_id for one in outputs} == {None, leader.meta.event_id}

        # Delivered again, to a worker that has never seen any of it: the same bytes, and nothing is paid.
        fresh = await workers.worker("c")
        again = await asyncio.gather(*(fresh(event) for event in events[:20]))
        assert [digests(one) for one in again] == [digests(one) for one in outputs[:20]]

        near = completion(await fresh(workers.event(100, f"and why, {lane}? [[fault:slow:1]]")))
        assert (near.served_by, near.source_event_id) == ("cache-semantic", leader.meta.event_id)
        assert workers.paid() == 1
        far = completion(await fresh(workers.event(101, f"something else about {lane}")))
        assert far.served_by == "model" and workers.paid() == 2


class Lives:
    """Requests of one text, each handled by a worker of its own."""

    def __init__(self, stack: TestStack, provider: ProviderProcess, lane: str) -> None:
        self._base = {"dsn": stack.postgres_dsn, "base_url": provider.base_url, "lane": lane, "cache": True}
        self._base |= {"lease_s": 1.0, "text": f"why, {lane}?"}
        self._lane, self._provider = lane, provider

    async def live(self, name: str) -> list[str]:
        return await live(self._plan(name))

    async def die(self, name: str, failpoint: str) -> None:
        await die(self._plan(name), failpoint)

    def _plan(self, name: str) -> dict[str, Any]:
        return {**self._base, "request_id": f"{self._lane}-{name}"}

    def paid(self) -> int:
        return sum(paid for request, paid in self._provider.paid().items() if request.startswith(self._lane))


async def test_who_waits_takes_over_from_a_killed_leader_and_the_leader_is_served_when_it_comes_back(
    stack: TestStack, provider: ProviderProcess, lane: str
) -> None:
    lives = Lives(stack, provider, lane)
    await lives.die("first", "after_reply")
    assert lives.paid() == 1
    second = await lives.live("second")
    assert [line.split()[0] for line in second] == ["Cost", "Completion"] and lives.paid() == 2
    # Its own call was lost, and booked as unknown; it is not bought again.
    first = await lives.live("first")
    assert [line.split()[0] for line in first] == ["Cost", "Cost", "Completion"] and lives.paid() == 2
    # Killed when the decision is booked and nothing was published: it is the same afterwards.
    await lives.die("third", "after_finish")
    served = await lives.live("third")
    assert served == await lives.live("third") and lives.paid() == 2


async def test_the_purge_takes_entries_with_their_vectors_and_bodies(stack: TestStack, lane: str) -> None:
    database = await Database.open(stack.postgres_dsn)
    for name, days in ((f"{lane}-old", 500), (f"{lane}-new", 1)):
        key = name.encode()
        await database.execute(
            "INSERT INTO cache_entries (cache_key, tenant, lane, route, call_id, lease_until, created_at)"
            " VALUES (%s, 'acme', %s, 'r', gen_random_uuid(), now(), now() - make_interval(days => %s))",
            (key, lane, days),
        )
        await database.execute(
            "INSERT INTO cache_vectors (cache_key, scope_key, embedding) VALUES (%s, %s, %s::vector)",
            (key, lane.encode(), str([1.0] * 384)),
        )
        await database.execute(
            "INSERT INTO bodies (tenant, digest, body, stored_at)"
            " VALUES (%s, %s, '', now() - make_interval(days => %s))",
            (lane, key, days),
        )
    tables = [table for table in TABLES if table.name in ("cache_entries", "bodies")]

    async def left() -> list[Any]:
        [_ async for _ in Purge(database, Retention.of({}, {}, 7.0), tables=tables).run()]
        return await database.execute(
            "SELECT (SELECT array_agg(cache_key) FROM cache_entries WHERE lane = %(lane)s),"
            " (SELECT array_agg(cache_key) FROM cache_vectors WHERE scope_key = %(lane)s::bytea),"
            " (SELECT array_agg(digest) FROM bodies WHERE tenant = %(lane)s)",
            {"lane": lane},
        )

    new = [f"{lane}-new".encode()]
    # A worker's purge may hold the lock at first.
    deadline = time.monotonic() + 60
    while await left() != [(new, new, new)]:
        assert time.monotonic() < deadline
    await database.close()
