"""A tenant's cap: so many of its requests are in the stream, the others wait outside the log in their order."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from processors.admit.in_flight import Entering, FakeInFlight, Room
from processors.admit.limiter import Charged, FakeCharger
from processors.admit.limits import LimitPolicy
from processors.admit.policy import AdmitPolicy
from processors.clock import FakeClock
from schemas.errors import DependencyDownError, NotYetError
from schemas.records import Request
from tests.support.admission import Bench, request

LANE = "live"


def capped(cap: int = 2, **options: Any) -> tuple[Bench, FakeInFlight]:
    clock = FakeClock()
    in_flight = FakeInFlight(clock)
    room = Room(in_flight, {"default": cap}, lane=LANE, monotonic=lambda: clock.now().timestamp())
    return Bench(clock=clock, room=room, **options), in_flight


def asked(number: int) -> Request:
    return request(meta={"request_id": f"r{number}"})


async def put_off(door: Bench, number: int) -> NotYetError:
    with pytest.raises(NotYetError) as waits:
        await door.admit(asked(number))
    return waits.value


async def test_what_is_over_the_cap_waits_until_there_is_room() -> None:
    door, in_flight = capped()
    for number in (0, 1):
        await door.admitted(asked(number))
    error = await put_off(door, 2)
    assert (error.reason, error.wait_s) == ("tenant.max_in_flight", 0.0) and error.expires_at is not None
    await in_flight.leave(LANE, "default", "r0")
    door.clock.advance(1)
    await door.admitted(asked(2))


async def test_a_redelivery_takes_no_second_place_and_none_once_it_is_answered() -> None:
    door, in_flight = capped()
    first = await door.admitted(asked(0))
    assert await door.admitted(asked(0)) == first
    await door.admitted(asked(1))
    await in_flight.leave(LANE, "default", "r0")
    assert await door.admitted(asked(0)) == first
    assert set(in_flight.inside[LANE, "default"]) == {"r1"}, "its answer is final: it is in no longer"


async def test_nobody_overtakes_those_who_wait() -> None:
    door, in_flight = capped()
    in_flight.waiting = lambda _lane, _tenant: True
    await put_off(door, 5)
    # It was put back, and has its place already.
    entering = Entering(request_id="r5", until=door.clock.now() + timedelta(minutes=5))
    assert await in_flight.enter(LANE, "default", 2, [entering], first=True) == {"r5"}
    await door.admitted(asked(5))


async def test_a_flood_is_mostly_set_aside_without_a_look() -> None:
    door, in_flight = capped()
    for number in (0, 1):
        await door.admitted(asked(number))
    for number in range(2, 102):
        await put_off(door, number)
    assert in_flight.trips <= 4


async def test_requests_that_come_together_go_in_together() -> None:
    clock = FakeClock()
    in_flight = FakeInFlight(clock)
    room = Room(in_flight, {"acme": 3}, lane=LANE)
    until = clock.now() + timedelta(minutes=1)
    entered = await asyncio.gather(
        *(room.enter("acme", Entering(request_id=f"r{n}", until=until), known=False) for n in range(10))
    )
    assert sum(entered) == 3 and in_flight.trips == 1


async def test_a_place_ends_with_its_requests_time_to_live() -> None:
    door, _ = capped(1)
    await door.admitted(asked(0))
    await put_off(door, 1)
    door.clock.advance(24 * 3600)
    await door.admitted(asked(2))


async def test_whoever_waits_for_a_rate_holds_no_place() -> None:
    queued = Charged(verdict="queued", by="tenant.requests", wait_s=30.0)
    door, in_flight = capped(
        policy=AdmitPolicy(tenants={"default": "free"}), limits=LimitPolicy(), charger=FakeCharger(queued)
    )
    assert (await put_off(door, 0)).reason == "limit/tenant.requests"
    assert not in_flight.inside[LANE, "default"]


async def test_a_store_that_is_away_is_told() -> None:
    door, in_flight = capped()
    in_flight.down = True
    with pytest.raises(DependencyDownError):
        await door.admit(asked(0))
