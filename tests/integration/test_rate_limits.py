"""Rate limits on a real Postgres: the same arithmetic, and eight workers that together keep one limit."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from processors.admit.buckets import Draw, Level, Rate, take
from processors.admit.buckets_pg import PostgresBuckets
from processors.admit.limiter import Charge, Limiter
from processors.admit.limits import Step
from processors.admit.settlement import Used
from processors.admit.settlement_pg import PostgresSettlement
from processors.idempotency import Claimant, FakeIdempotency, Idempotency, PostgresIdempotency
from processors.postgres import Database
from processors.ruling import ADMITTED, OPEN, Ruling
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

WORKERS = 8


@pytest.fixture
async def database(stack: TestStack) -> AsyncIterator[Database]:
    opened = await Database.open(stack.postgres_dsn, max_size=WORKERS + 2)
    yield opened
    await opened.close()


async def test_the_statement_does_what_the_arithmetic_says(database: Database, lane: str) -> None:
    buckets, chance, bucket = PostgresBuckets(database), random.Random(7), f"{lane}/b"
    rate = Rate(per_minute=6_000, burst=50)
    stored: Level | None = None
    for _ in range(25):
        draw = Draw(
            bucket=bucket,
            rate=rate,
            wish=chance.randrange(40),
            must=chance.choice((0, 0, 30)),
            returned=chance.choice((0.0, 5.0)),
        )
        got = (await buckets.draw([draw]))[bucket]
        [(level, at)] = await database.execute("SELECT level, at FROM rate_buckets WHERE bucket = %s", (bucket,))
        stored, expected = take(stored, draw, at)
        assert (got.granted, got.available) == (expected.granted, pytest.approx(expected.available, abs=1e-6))
        assert level == pytest.approx(stored.level, abs=1e-6)


async def test_eight_workers_keep_one_limit_and_use_it_up(database: Database, lane: str) -> None:
    # Seconds pass until what nobody takes runs over.
    rate = Rate(per_minute=1_200, burst=60)
    step = Step(name="tenant.requests", bucket=f"{lane}/tenant.requests/acme", rate=rate, amount=1)
    wide = Step(name="everyone.requests", bucket=f"{lane}/everyone.requests/", rate=rate, amount=1)
    limiters = [Limiter(PostgresBuckets(database)) for _ in range(WORKERS)]
    opened = await sessions(database)
    admitted, asked, began = 0, 0, time.monotonic()
    ends = began + 3.0

    async def client(limiter: Limiter) -> None:
        nonlocal admitted, asked
        while time.monotonic() < ends:
            charged = await limiter.charge(Charge(steps=(step, wide)))
            asked += 1
            admitted += charged.verdict == "admitted"
            # Twice what is let in, however slow the machine.
            await asyncio.sleep(0 if charged.verdict == "admitted" else 0.02)

    await asyncio.gather(*(client(limiter) for limiter in limiters for _ in range(6)))
    span_s = time.monotonic() - began
    assert await sessions(database) <= max(opened, WORKERS + 2), "charging opens no connection of its own"
    for limiter in limiters:
        await limiter.close()
    # The documented slack: what one second brings.
    assert admitted <= rate.burst + rate.per_s * (span_s + 1)
    assert asked > admitted, "more was asked than let in"
    assert admitted >= 0.85 * (rate.burst + rate.per_s * span_s)


async def test_those_who_wait_are_let_in_one_after_the_other(database: Database, lane: str) -> None:
    rate = Rate(per_minute=60, burst=1)
    step = Step(name="tenant.requests", bucket=f"{lane}/tenant.requests/acme", rate=rate, amount=1)
    limiters = [Limiter(PostgresBuckets(database)) for _ in range(WORKERS)]
    before = time.monotonic()
    assert (await limiters[0].charge(Charge(steps=(step,)))).verdict == "admitted"
    after = time.monotonic()
    for place, limiter in enumerate(limiters, start=1):
        asked = time.monotonic()
        charged = await limiter.charge(Charge(steps=(step,), longest_wait_s=60))
        told = time.monotonic()
        # A second for each, from when the bucket was emptied: whatever this machine took in between.
        assert charged.verdict == "queued" and charged.wait_s is not None
        assert place - (told - before) - 0.1 <= charged.wait_s <= place - (asked - after) + 0.1
    for limiter in limiters:
        await limiter.close()


@pytest.mark.parametrize("kind", ["postgres", "fake"])
async def test_of_two_decisions_about_a_request_the_first_is_kept(database: Database, lane: str, kind: str) -> None:
    store: Idempotency = PostgresIdempotency(database) if kind == "postgres" else FakeIdempotency()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    claimant = Claimant(tenant="acme", lane=lane, request_id="r1", body_hash="h", control_offset=1, accepted_at=at)
    assert (await store.reserve(claimant, "r1", scope="request", ruling=OPEN)).ruling == OPEN
    assert (await store.reserve(claimant, "r1", scope="request")).ruling == OPEN
    queued = Ruling(verdict="queued", by="user.requests", until=at + timedelta(seconds=9, microseconds=5))
    assert await store.rule(claimant, queued, was=OPEN) is queued
    assert await store.rule(claimant, ADMITTED, was=OPEN) == queued
    assert (await store.reserve(claimant, "r1", scope="request", ruling=OPEN)).ruling == queued
    assert await store.rule(claimant, ADMITTED, was=queued) is ADMITTED
    assert (await store.reserve(claimant, "r1", scope="request", ruling=OPEN)).ruling == ADMITTED


async def sessions(database: Database) -> int:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
    [(count,)] = await database.execute(statement, ("headrace",))
    return int(count)


async def test_of_many_deliveries_of_many_requests_at_once_each_request_is_decided_by_one(
    database: Database, lane: str
) -> None:
    workers = [PostgresIdempotency(database) for _ in range(4)]
    at = datetime(2026, 1, 1, tzinfo=UTC)
    claimants = [
        Claimant(tenant="acme", lane=lane, request_id=f"r{n}", body_hash="h", control_offset=1, accepted_at=at)
        for n in range(20)
    ]
    for claimant in claimants:
        await workers[0].reserve(claimant, claimant.request_id, scope="request", ruling=OPEN)
    ours = [(worker, claimant, Ruling(verdict="admitted")) for worker in workers for claimant in claimants * 2]
    random.Random(3).shuffle(ours)
    kept = await asyncio.gather(*(worker.rule(claimant, mine, was=OPEN) for worker, claimant, mine in ours))
    assert set(kept) == {ADMITTED}
    won = [claimant.request_id for (_, claimant, mine), found in zip(ours, kept, strict=True) if found is mine]
    assert sorted(won) == sorted(claimant.request_id for claimant in claimants)


async def test_settlements_of_many_workers_are_exact_and_made_once(database: Database, lane: str) -> None:
    """Six workers are told of the same forty requests at once, half of which used less than was charged."""
    rate = Rate(per_minute=0.001, burst=1_000_000)
    step = Step(name="tenant.tokens", bucket=f"{lane}/tenant.tokens/acme", rate=rate, amount=1_000)
    everyone = replace(step, name="everyone.tokens", bucket=f"{lane}/everyone.tokens/")
    buckets, idempotency = PostgresBuckets(database), PostgresIdempotency(database)
    names = [f"r{n}" for n in range(40)]
    for name in names:
        claimant = Claimant(
            tenant="acme", lane=lane, request_id=name, body_hash="b", control_offset=0, accepted_at=datetime.now(UTC)
        )
        verdict = "" if name == "r0" else "queued" if name == "r1" else "admitted"
        await idempotency.reserve(claimant, name, scope="request", ruling=Ruling(verdict=verdict))
    for bucket in (step, everyone):
        await buckets.draw([Draw(bucket=bucket.bucket, rate=rate, must=40_000)])
    workers = [PostgresSettlement(database) for _ in range(6)]
    asked = [
        Used(tenant="acme", lane=lane, request_id=name, steps=(step, everyone), tokens=100 * number)
        for number, name in enumerate(names)
    ]
    await asyncio.gather(*(worker.settle(used) for worker in workers for used in asked))
    unknown = Used(tenant="acme", lane=lane, request_id="nobody's", steps=(step,), tokens=5_000)
    await workers[0].settle(unknown)
    found = await buckets.draw([Draw(bucket=one.bucket, rate=rate) for one in (step, everyone)])
    # All but the one that was not charged: 40,000 less 39 estimates, and what they used.
    left = 1_000_000 - 40_000 + 39 * 1_000 - sum(100 * number for number in range(1, 40))
    assert [round(one.available) for one in found.values()] == [left, left]
