"""A pool that shares its deployments: it takes what others leave, and tells what it uses."""

from __future__ import annotations

import asyncio
import random

from processors.complete.routes import Deployment, Group
from processors.routing import Ask, Pool, Seat
from processors.routing.causes import UNUSED, Ended
from processors.routing.spare import FakeSpare

TIME = 1000.0


def deployment(name: str, places: int = 8, tokens: int | None = None) -> Deployment:
    return Deployment(
        name=name, base_url=f"http://{name}/v1", model="m", max_concurrency=places, tokens_per_minute=tokens
    )


def pool_of(spare: FakeSpare, *deployments: Deployment) -> tuple[Pool, Ask]:
    pool = Pool(deployments, random_=random.Random(1), clock=lambda: TIME, spare=spare)
    return pool, Ask(group=Group(deployments=deployments))


async def taken(pool: Pool, ask: Ask) -> Seat:
    found = await asyncio.wait_for(pool.take(ask), 10)
    assert isinstance(found, Seat)
    return found


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_is_taken_than_others_leave_and_more_as_soon_as_they_leave_it() -> None:
    spare = FakeSpare({"a": 1})
    pool, ask = pool_of(spare, deployment("a"))
    first = await taken(pool, ask)
    waiting = [asyncio.create_task(taken(pool, ask)) for _ in range(2)]
    await settled()
    assert not any(task.done() for task in waiting)
    assert pool.at_once(ask) is None
    spare.give("a", 2)
    await settled()
    assert [task.done() for task in waiting] == [True, False]
    # What is taken away while calls are open is not begun again when they end.
    spare.give("a", 0)
    pool.leave(first)
    pool.leave(waiting[0].result())
    await settled()
    assert not waiting[1].done()
    spare.give("a", 1)
    await asyncio.wait_for(waiting[1], 10)


async def test_calls_go_where_others_leave_room() -> None:
    pool, ask = pool_of(FakeSpare({"b": 8}), deployment("a"), deployment("b"))
    assert {(await taken(pool, ask)).deployment.name for _ in range(5)} == {"b"}


async def test_its_own_limits_hold_beside_what_is_left() -> None:
    pool, ask = pool_of(FakeSpare({"a": 100}), deployment("a", places=2))
    assert pool.at_once(ask) is not None
    assert pool.at_once(ask) is not None
    assert pool.at_once(ask) is None


async def test_requests_of_the_minute_are_waited_for_and_given_back_where_none_was_sent() -> None:
    spare = FakeSpare({"a": 8}, per_minute=1)
    pool, ask = pool_of(spare, deployment("a"))
    seat = await taken(pool, ask)
    assert pool.at_once(ask) is None
    pool.leave(seat, UNUSED)
    assert pool.at_once(ask) is not None


async def test_a_refusal_is_told_at_once() -> None:
    spare = FakeSpare({"a": 8})
    pool, ask = pool_of(spare, deployment("a"))
    pool.leave(await taken(pool, ask), Ended("throttled", code="http_429"))
    assert spare.refused == ["a"]
    assert pool.uses()["a"].throttled_s == 0.0


async def test_a_pool_tells_what_is_open_what_was_and_who_waits() -> None:
    first, second = deployment("a", places=2, tokens=6_000), deployment("b", places=1)
    pool = Pool([first, second], random_=random.Random(1), clock=lambda: TIME)
    ask = Ask(group=Group(deployments=(first,)), tokens=100)
    seats = [await taken(pool, ask) for _ in range(2)]
    waiting = asyncio.create_task(taken(pool, ask))
    await settled()
    use = pool.uses()["a"]
    assert (use.in_flight, use.most, use.limit, use.waiting, use.requests, use.tokens) == (2, 2, 2, 1, 2, 200)
    assert use.throttled_s is None
    pool.leave(seats[0], Ended("answered", tokens=30))
    await settled()
    seats[0] = waiting.result()
    for seat in seats:
        pool.leave(seat, Ended("answered", tokens=30))
    use = pool.uses()["a"]
    assert (use.in_flight, use.most, use.waiting, use.requests, use.tokens) == (0, 2, 0, 3, 90), "2 since it was asked"
    assert pool.uses()["a"].most == 0
    assert pool.uses()["b"].most == 0
