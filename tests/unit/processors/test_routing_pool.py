"""The pool: who gets which place, who waits, and who is told that waiting is no use."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from pydantic import SecretStr

from processors.complete.routes import Deployment, Group
from processors.routing import Ask, Pool, Seat, Unavailable
from processors.routing.causes import UNUSED, Ended
from processors.routing.observer import NullPoolObserver


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def deployment(name: str, **changes: Any) -> Deployment:
    return Deployment(name=name, base_url=f"http://{name}/v1", model="m", **{"max_concurrency": 2, **changes})


class Bench:
    def __init__(self, *deployments: Deployment, observer: Any = None) -> None:
        self.time = Time()
        self.pool = Pool(deployments, random_=random.Random(1), clock=self.time, observer=observer)
        self.ask = Ask(group=Group(deployments=deployments))

    async def seat(self, **changes: Any) -> Seat:
        found = await asyncio.wait_for(self.pool.take(self.ask, **changes), 10)
        assert isinstance(found, Seat), found
        return found

    async def fail(self, times: int = 5, *, at: str) -> None:
        name = next(one for one in self.ask.group.deployments if one.name == at)
        for _ in range(times):
            found = await self.pool.take(Ask(group=Group(deployments=(name,))))
            assert isinstance(found, Seat)
            self.pool.leave(found, Ended("failed"))


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_than_the_limit_are_open_and_whoever_waits_is_served_in_order() -> None:
    bench = Bench(deployment("a"))
    first, second = await bench.seat(), await bench.seat()
    order: list[int] = []

    async def wait(number: int) -> Seat:
        seat = await bench.seat()
        order.append(number)
        return seat

    waiting = [asyncio.create_task(wait(n)) for n in range(3)]
    await settled()
    assert not order
    bench.pool.leave(second)
    bench.pool.leave(second)
    await settled()
    assert order == [0], "leaving twice frees one place"
    waiting[1].cancel()
    bench.pool.leave(first)
    await settled()
    assert order == [0, 2]
    for task in (waiting[0], waiting[2]):
        bench.pool.leave(task.result())
    await bench.seat()
    await bench.seat()


async def test_a_place_that_was_given_to_one_who_is_cancelled_at_that_moment_goes_to_the_next() -> None:
    bench = Bench(deployment("a", max_concurrency=1))
    held = await bench.seat()
    gone, next_ = asyncio.create_task(bench.seat()), asyncio.create_task(bench.seat())
    await settled()
    bench.pool.leave(held)
    gone.cancel()
    assert isinstance(await next_, Seat)


async def test_calls_go_to_the_other_deployment_while_one_is_full_or_its_breaker_is_open() -> None:
    bench = Bench(deployment("a"), deployment("b"))
    seats = [await bench.seat() for _ in range(4)]
    assert sorted(seat.deployment.name for seat in seats) == ["a", "a", "b", "b"]
    for seat in seats:
        bench.pool.leave(seat)
    await bench.fail(at="a")
    assert {(await bench.seat()).deployment.name for _ in range(2)} == {"b"}
    waiting = asyncio.create_task(bench.seat())
    await settled()
    assert not waiting.done(), "b is full, and a is left alone"
    waiting.cancel()


async def test_who_waits_for_a_place_is_told_when_there_will_be_none_for_too_long() -> None:
    bench = Bench(deployment("a", max_concurrency=1))
    await bench.fail(4, at="a")
    last = await bench.seat()
    hasty = asyncio.create_task(bench.pool.take(bench.ask, patience_s=5))
    patient = asyncio.create_task(bench.pool.take(bench.ask))
    await settled()
    assert not hasty.done() and not patient.done(), "the place is only taken"
    bench.pool.leave(last, Ended("failed"))
    assert await asyncio.wait_for(hasty, 10) == Unavailable(30.0, "outage", "a")
    assert not patient.done()
    bench.time.now += 30
    probe = asyncio.create_task(bench.seat())
    assert isinstance(await asyncio.wait_for(patient, 10), Seat), "first come, first served"
    await settled()
    assert not probe.done()
    bench.pool.leave(patient.result(), Ended("answered"))  # type: ignore[arg-type]
    assert isinstance(await asyncio.wait_for(probe, 10), Seat)


async def test_a_retry_after_pauses_its_key_alone_and_other_keys_are_used() -> None:
    bench = Bench(deployment("a", api_keys=(SecretStr("x"), SecretStr("y"))))
    seat = await bench.seat()
    assert seat.deployment.api_key is not None
    first = seat.deployment.api_key.get_secret_value()
    bench.pool.leave(seat, Ended("throttled", pause_s=90.0, code="http_429"))
    other = await bench.seat()
    assert other.deployment.api_key is not None and other.deployment.api_key.get_secret_value() != first
    bench.pool.leave(other, Ended("throttled", pause_s=30.0, code="http_429"))
    assert await bench.pool.take(bench.ask, patience_s=5) == Unavailable(30.0, "rate_limit", "a")
    bench.time.now += 30
    again = await bench.seat()
    assert again.key is other.key


async def test_a_refused_key_is_reported_once_and_when_all_are_there_is_no_use_in_waiting() -> None:
    class Heard(NullPoolObserver):
        refused: list[tuple[int, str]] = []  # noqa: RUF012
        aside: list[int] = []  # noqa: RUF012

        def on_key_refused(self, deployment: str, number: int, code: str) -> None:
            self.refused.append((number, code))

        def on_keys_aside(self, deployment: str, keys: int) -> None:
            self.aside.append(keys)

    heard = Heard()
    bench = Bench(deployment("a", api_keys=(SecretStr("x"), SecretStr("y"))), observer=heard)
    for _ in range(2):
        bench.pool.leave(await bench.seat(), Ended("denied", code="http_401"))
    assert sorted(heard.refused) == [(1, "http_401"), (2, "http_401")] and heard.aside == [1, 2]
    told = await bench.pool.take(bench.ask)
    assert isinstance(told, Unavailable) and told.denied
    assert not bench.pool.usable("a")
    bench.time.now += 300
    seat = await bench.seat()
    bench.pool.leave(seat, Ended("answered"))
    assert heard.aside[-1] == 1 and bench.pool.usable("a")


async def test_a_place_that_was_not_used_costs_no_request_of_the_quota() -> None:
    bench = Bench(deployment("a", requests_per_minute=6))
    for _ in range(20):
        bench.pool.leave(await bench.seat(), UNUSED)
    bench.pool.leave(await bench.seat(), Ended("answered"))
    told = await bench.pool.take(bench.ask, patience_s=1)
    assert isinstance(told, Unavailable) and told.cause == "rate_limit" and told.wait_s == pytest.approx(10)


async def test_a_short_wait_is_waited_for() -> None:
    pool = Pool([deployment("a", requests_per_minute=1200)])
    ask = Ask(group=Group(deployments=(deployment("a", requests_per_minute=1200),)))
    for _ in range(201):
        found = await asyncio.wait_for(pool.take(ask), 10)
        assert isinstance(found, Seat)
        pool.leave(found, Ended("answered"))
