"""What of a run has to wait for the places that live leaves, and what has not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from processors.complete.routes import Deployment
from schemas.errors import DependencyDownError, NotYetError, TransientProviderError
from streams.capacity.following import Following
from streams.capacity.spare import AHEAD, FIRST, Leftover
from streams.capacity.store import FakeUses
from streams.replay.calls import Limits, Prepared, waiting_for_places
from streams.replay.limits import Pace, Purse
from tests.support.completing import event
from tests.support.polling import until

MAIN = Deployment(name="main", base_url="http://main/v1", model="m", max_concurrency=16)


@dataclass
class KnownCalls:
    """Calls of which all is known."""

    prepared: dict[str, Prepared] = field(default_factory=dict)


class Scene:
    def __init__(self, limit: Decimal | None = None) -> None:
        self.calls: Any = KnownCalls()
        self.left = Leftover([MAIN], lane="live")
        self.left.members = 0
        self.limits = Limits(Pace(None), Purse(limit, Decimal(0)), None, self.calls, self.left)

    def event(self, number: int, **known: Any) -> Any:
        incoming = event(request_id=f"r{number}")
        self.calls.prepared[incoming.meta.event_id] = Prepared(**{"deployments": ("main",), **known})
        return incoming

    async def look(self) -> None:
        await Following(FakeUses(), holder="r1", lane="r1", left=self.left).look()


async def test_only_what_asks_a_provider_waits_for_a_place() -> None:
    scene = Scene()
    asks = asyncio.ensure_future(scene.limits.begin(scene.event(0)))
    await asyncio.sleep(0)
    assert not asks.done()
    reused = scene.event(1, reused="live")
    assert await asyncio.wait_for(scene.limits.begin(reused), 20)
    scene.limits.done(reused, Decimal(0))
    # No such route, or nothing to ask for: the stage says so.
    assert await asyncio.wait_for(scene.limits.begin(scene.event(2, deployments=())), 20)
    assert await asyncio.wait_for(scene.limits.begin(scene.event(3, error=NotYetError(1, "x"))), 20)
    await scene.look()
    assert await asyncio.wait_for(asks, 20)


async def test_events_are_begun_as_places_come_and_each_that_ends_lets_another_begin() -> None:
    scene = Scene()
    await scene.look()
    events = [scene.event(number) for number in range(AHEAD * FIRST + 1)]
    for one in events[:-1]:
        assert await asyncio.wait_for(scene.limits.begin(one), 20)
    last = asyncio.ensure_future(scene.limits.begin(events[-1]))
    await asyncio.sleep(0)
    assert not last.done()
    scene.limits.done(events[0], Decimal(0))
    assert await asyncio.wait_for(last, 20)


async def test_what_may_not_be_spent_takes_no_room() -> None:
    scene = Scene(Decimal(1))
    await scene.look()
    for number in range(AHEAD * FIRST + 1):
        assert not await asyncio.wait_for(scene.limits.begin(scene.event(number, most=Decimal(2))), 20)
    assert await asyncio.wait_for(scene.limits.begin(scene.event(99)), 20)


async def test_a_place_that_live_keeps_for_long_is_waited_for_and_ends_no_run() -> None:
    failure: Exception = DependencyDownError("deployment main", "every slot was taken")

    async def process(_: Any) -> str:
        raise failure

    with pytest.raises(NotYetError, match="deployment main"):
        await waiting_for_places(process)(event())
    failure = DependencyDownError("postgres", "gone")
    with pytest.raises(DependencyDownError, match="postgres"):
        await waiting_for_places(process)(event())
    failure = TransientProviderError("http_500", "x")
    with pytest.raises(TransientProviderError):
        await waiting_for_places(process)(event())


async def test_an_interrupted_wait_takes_no_room() -> None:
    scene = Scene()
    waiting = asyncio.ensure_future(scene.limits.begin(scene.event(0)))
    await asyncio.sleep(0)
    waiting.cancel()
    await until(waiting.done, "it is cancelled")
    await scene.look()
    for number in range(1, AHEAD * FIRST + 1):
        assert await asyncio.wait_for(scene.limits.begin(scene.event(number)), 20)
