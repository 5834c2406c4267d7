"""Events that were set aside go back as they were, when they may, and their rows go last."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from processors.deferred import Deferred
from schemas.errors import DependencyDownError, OversizedError
from streams.deferring import BATCH, PutBack
from streams.stages import STAGES
from tests.support.running import LANE, NOW, Bench


def event(number: int = 0, **changes: Any) -> Deferred:
    plain = Deferred(
        lane=LANE,
        stage="enrich",
        run="",
        event_id=f"e{number}",
        topic_kind="admitted",
        key=f"r{number}".encode(),
        value=f"bytes {number}".encode(),
        headers=(("mine", b"\x00\xff"),),
        tenant="acme",
        route="default",
        priority="normal",
        request_id=f"r{number}",
        accepted_at=NOW,
        expires_at=NOW + timedelta(minutes=5),
        reason="tenant/acme",
    )
    return replace(plain, **changes)


@pytest.fixture
def bench() -> Bench:
    async def unused(_incoming: Any) -> Any:
        raise AssertionError

    return Bench(unused, stage=STAGES["enrich"])


def put_back(bench: Bench) -> PutBack:
    return PutBack("enrich", bench.runner._services)


async def test_what_is_paused_stays_and_goes_back_as_it_was_when_resumed(bench: Bench) -> None:
    bench.control.pause("tenant", "acme")
    await bench.deferred.store(event())
    back = put_back(bench)
    assert await back.round() == 0 and not bench.producer.sent
    bench.control.resume("tenant", "acme")
    assert await back.round() == 1
    [sent] = bench.sent("admitted")
    assert (sent.key, sent.value, sent.headers) == (b"r0", b"bytes 0", [("mine", b"\x00\xff")])
    assert not bench.deferred.rows


async def test_a_route_that_is_paused_holds_its_events_though_their_tenant_is_free(bench: Bench) -> None:
    bench.control.pause("route", "slow")
    await bench.deferred.store(event(0, route="slow"))
    await bench.deferred.store(event(1))
    assert await put_back(bench).round() == 1
    assert [sent.key for sent in bench.sent("admitted")] == [b"r1"]


async def test_an_expired_event_goes_back_while_its_tenant_is_paused(bench: Bench) -> None:
    bench.control.pause("tenant", "acme")
    await bench.deferred.store(event(0))
    await bench.deferred.store(event(1, expires_at=None))
    bench.deferred.now = NOW + timedelta(minutes=6)
    assert await put_back(bench).round() == 1
    assert [sent.key for sent in bench.sent("admitted")] == [b"r0"]


async def test_a_cancelled_event_goes_back_at_once_whenever_the_cancel_came(bench: Bench) -> None:
    bench.control.pause("tenant", "acme")
    back = put_back(bench)
    bench.control.cancel("acme", "r0")
    for number in range(3):
        await bench.deferred.store(event(number))
    assert await back.round() == 1
    bench.control.cancel("acme", "r1")
    assert await back.round() == 1
    assert [sent.key for sent in bench.sent("admitted")] == [b"r0", b"r1"]
    # Another worker set an event aside at the moment of its cancel, which was looked up already.
    await bench.deferred.store(event(0))
    assert await back.round() == 0
    back._cancels_again = 0.0
    assert await back.round() == 1


async def test_the_row_stays_when_the_broker_does_not_acknowledge(bench: Bench) -> None:
    await bench.deferred.store(event())
    bench.producer.failures = [DependencyDownError("kafka", "away")]
    with pytest.raises(DependencyDownError):
        await put_back(bench).round()
    assert bench.deferred.rows


async def test_an_event_that_is_set_aside_again_meanwhile_keeps_its_row(bench: Bench) -> None:
    await bench.deferred.store(event())
    send = bench.producer.send

    async def send_and_pause(outgoing: Any) -> None:
        await send(outgoing)
        # A worker whose view of control is behind gets the event and sets it aside before the row is deleted.
        await bench.deferred.store(event())

    bench.producer.send = send_and_pause  # type: ignore[method-assign]
    await put_back(bench).round()
    assert len(bench.deferred.rows) == 1


async def test_an_event_that_the_broker_refuses_keeps_its_row_and_holds_up_no_other(bench: Bench) -> None:
    send = bench.producer.send

    async def refuse(outgoing: Any) -> None:
        if any(one.key == b"r1" for one in outgoing):
            raise OversizedError("too large")
        await send(outgoing)

    bench.producer.send = refuse  # type: ignore[method-assign]
    for number in range(3):
        await bench.deferred.store(event(number))
    assert await put_back(bench).round() == 2
    assert [row.event.key for row in bench.deferred.rows.values()] == [b"r1"]


async def test_many_go_back_in_batches(bench: Bench) -> None:
    for number in range(BATCH + 1):
        await bench.deferred.store(event(number))
    back = put_back(bench)
    assert [await back.round(), await back.round(), await back.round()] == [BATCH, 1, 0]


async def test_what_another_worker_holds_is_left_to_it_for_a_while(bench: Bench) -> None:
    await bench.deferred.store(event())
    await bench.deferred.take_due(LANE, "enrich", ("acme", "default"), limit=1, hold_s=30)
    assert await put_back(bench).round() == 0
    bench.deferred.now += timedelta(seconds=31)
    assert await put_back(bench).round() == 1


async def test_it_runs_until_the_worker_stops_and_over_a_database_that_was_away(bench: Bench) -> None:
    await bench.deferred.store(event())
    bench.producer.failures = [DependencyDownError("kafka", "away")]
    running = asyncio.ensure_future(put_back(bench).run())
    gate = asyncio.ensure_future(bench.gate.run())
    async with asyncio.timeout(20):
        # Held after the first try; another life, or this one later, takes it up.
        while not bench.deferred.rows or not next(iter(bench.deferred.rows.values())).taken_until > NOW:
            await asyncio.sleep(0.01)
        bench.deferred.now += timedelta(seconds=31)
        while bench.deferred.rows:
            await asyncio.sleep(0.01)
    running.cancel()
    gate.cancel()
    assert len(bench.sent("admitted")) == 1
