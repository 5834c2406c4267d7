"""Events that are set aside, on a real Postgres: nothing of them is lost, and one worker at a time puts them back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from infra import migrate
from processors.deferred import _GROUPS, Deferred, PostgresDeferred, Taken
from processors.postgres import Database
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACME = ("acme", "default")


@pytest.fixture
async def store(stack: TestStack) -> AsyncIterator[PostgresDeferred]:
    database = await Database.open(stack.postgres_dsn, max_size=4)
    yield PostgresDeferred(database)
    await database.close()


def event(lane: str, number: int = 0, **changes: Any) -> Deferred:
    plain = Deferred(
        lane=lane,
        stage="enrich",
        run="",
        event_id=f"e{number}",
        topic_kind="admitted",
        key=f"r{number}".encode(),
        value=bytes(range(256)),
        headers=(("traceparent", b"00-\xff\x00"), ("empty", b""), ("traceparent", b"again")),
        tenant="acme",
        route="default",
        priority="normal",
        request_id=f"r{number}",
        accepted_at=NOW,
        expires_at=NOW + timedelta(days=36_500),
        reason="tenant/acme",
        control_offset=7,
    )
    return replace(plain, **changes)


async def due(store: PostgresDeferred, lane: str, *, hold_s: float = 30.0, limit: int = 10) -> list[Taken]:
    return list(await store.take_due(lane, "enrich", ACME, limit=limit, hold_s=hold_s))


async def test_an_event_comes_back_as_it_was_stored(store: PostgresDeferred, lane: str) -> None:
    stored = event(lane)
    bare = event(lane, 1, key=None, headers=(), expires_at=None)
    await store.store(stored)
    await store.store(bare)
    assert [taken.event for taken in await due(store, lane)] == [stored, bare], "in the order they were set aside"


async def test_an_event_that_is_stored_twice_is_there_once_with_its_first_bytes(
    store: PostgresDeferred, lane: str
) -> None:
    await store.store(event(lane))
    await store.store(event(lane, value=b"drifted", reason="route/default"))
    [taken] = await due(store, lane)
    assert taken.event.value == bytes(range(256)) and taken.event.reason == "route/default"
    assert taken.generation == 1


async def test_a_dead_letter_that_was_sent_once_more_is_another_event(store: PostgresDeferred, lane: str) -> None:
    await store.store(event(lane))
    await store.store(event(lane, run="redrive-1"))
    assert len(await due(store, lane)) == 2


async def test_an_event_that_is_set_aside_while_it_is_put_back_keeps_its_row(
    store: PostgresDeferred, lane: str
) -> None:
    await store.store(event(lane))
    taken = await due(store, lane)
    await store.store(event(lane))
    await store.done(taken)
    again = await due(store, lane)
    assert [one.generation for one in again] == [1]
    await store.done(again)
    assert not await due(store, lane)


async def test_what_one_worker_took_no_other_gets_until_its_hold_is_over(store: PostgresDeferred, lane: str) -> None:
    for number in range(20):
        await store.store(event(lane, number))
    batches = await asyncio.gather(*(due(store, lane, limit=5, hold_s=5) for _ in range(4)))
    ids = [taken.event.event_id for batch in batches for taken in batch]
    assert len(ids) == len(set(ids)) > 0
    async with asyncio.timeout(120):
        while len(await due(store, lane, limit=20, hold_s=0)) < 20:
            await asyncio.sleep(0.1)


async def test_groups_are_the_tenants_and_routes_with_events(store: PostgresDeferred, lane: str) -> None:
    for number, (tenant, route) in enumerate([("b", "x"), ("a", "y"), ("a", "x"), ("b", "x"), ("a", "y")]):
        await store.store(event(lane, number, tenant=tenant, route=route))
    await store.store(event(lane, 9, stage="complete", tenant="c"))
    assert list(await store.groups(lane, "enrich")) == [("a", "x"), ("a", "y"), ("b", "x")]
    assert list(await store.groups(f"{lane}-other", "enrich")) == []


async def test_an_event_with_a_time_is_not_put_back_before_it_unless_it_expired(
    store: PostgresDeferred, lane: str
) -> None:
    await store.store(event(lane, wait_s=3600.0, expires_at=NOW))
    assert not await due(store, lane)
    assert len(await store.take_expired(lane, "enrich", limit=10, hold_s=0)) == 1
    await store.store(event(lane))
    assert not await due(store, lane), "another reason does not make it due"
    await store.store(event(lane, wait_s=0.01))
    async with asyncio.timeout(120):
        while not await due(store, lane):
            await asyncio.sleep(0.05)


async def test_only_expired_events_are_taken_as_expired(store: PostgresDeferred, lane: str) -> None:
    await store.store(event(lane, 0, expires_at=NOW - timedelta(days=1)))
    await store.store(event(lane, 1))
    await store.store(event(lane, 2, expires_at=None))
    taken = await store.take_expired(lane, "enrich", limit=10, hold_s=30)
    assert [one.event.request_id for one in taken] == ["r0"]


async def test_requests_are_taken_by_tenant_and_id(store: PostgresDeferred, lane: str) -> None:
    for number in range(3):
        await store.store(event(lane, number))
    await store.store(event(lane, 3, tenant="bolt", request_id="r1"))
    await store.store(event(lane, 4, stage="complete", request_id="r1"))
    taken = await store.take_requests(lane, "enrich", [("acme", "r1"), ("bolt", "r2")], limit=10, hold_s=30)
    assert [(one.event.tenant, one.event.request_id) for one in taken] == [("acme", "r1")]


async def test_what_waits_is_counted_by_what_holds_it(store: PostgresDeferred, lane: str) -> None:
    await store.store(event(lane, 0))
    await store.store(event(lane, 1))
    await store.store(event(lane, 2, stage="complete", reason="route/default"))
    found = await store.waiting(lane)
    assert [(one.stage, one.reason, one.events) for one in found] == [
        ("complete", "route/default", 1),
        ("enrich", "tenant/acme", 2),
    ]
    assert [one.stage for one in await store.waiting(lane, "complete")] == ["complete"]


async def test_a_backlog_of_a_paused_tenant_costs_the_others_nothing(store: PostgresDeferred, lane: str) -> None:
    """The groups are found by steps through the index: the plan reads no more rows for more events."""
    database = store._database
    await store.store(event(lane, 0, tenant="zeta"))
    await database.execute(
        """
        INSERT INTO deferred (lane, stage, run, event_id, topic_kind, value, header_names, header_values, tenant,
            route, priority, request_id, accepted_at, reason, control_offset)
        SELECT %(lane)s, 'enrich', '', 'many' || n, 'admitted', ''::bytea, '{}'::text[], '{}'::bytea[], 'acme',
            'default', 'normal', 'many' || n, now(), 'tenant/acme', 0
        FROM generate_series(1, 20000) AS n
        """,
        {"lane": lane},
    )
    assert list(await store.groups(lane, "enrich")) == [("acme", "default"), ("zeta", "default")]
    await database.execute("ANALYZE deferred")
    rows = await database.execute(
        f"EXPLAIN (ANALYZE, FORMAT TEXT, TIMING OFF) {_GROUPS}", {"lane": lane, "stage": "enrich"}
    )
    plan = "\n".join(row[0] for row in rows)
    assert "Index" in plan and "Seq Scan on deferred" not in plan, plan
    await database.execute("DELETE FROM deferred WHERE lane = %s", [lane])


def test_the_table_is_not_dropped_while_it_holds_events(stack: TestStack) -> None:
    name = "m_deferred"
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection:
        connection.execute(f"drop database if exists {name}")
        connection.execute(f"create database {name}")
        dsn = stack.postgres_dsn.rsplit("/", 1)[0] + f"/{name}"
        try:
            migrate.apply(dsn)
            asyncio.run(_store_one(dsn))
            with pytest.raises(migrate.MigrationError, match="resume what is paused"):
                migrate.revert(dsn, 5)
            with psycopg.connect(dsn, autocommit=True) as inside:
                inside.execute("delete from deferred")
            assert "0006_deferred" in migrate.revert(dsn, 5)
        finally:
            connection.execute(f"drop database {name} with (force)")


async def _store_one(dsn: str) -> None:
    database = await Database.open(dsn, max_size=1)
    try:
        await PostgresDeferred(database).store(event("live"))
    finally:
        await database.close()
