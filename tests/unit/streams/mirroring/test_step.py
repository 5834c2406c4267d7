"""Events that a mirror has no budget for, or may not begin any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from processors.clock import FakeClock
from processors.event import Incoming, Output
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from schemas.errors import FencedError
from streams.replay.limits import PassedOverError
from tests.support.replaying import completion
from tests.unit.streams.test_replay_step import NOW, Scene, entry


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_what_has_no_room_leaves_no_output_and_the_others_go_on(concurrency: int) -> None:
    poor, settled = {"live-r1", "live-r2"}, []

    async def begin(incoming: Any) -> bool:
        if incoming.meta.request_id in poor:
            raise PassedOverError
        return True

    def done(incoming: Any, _: Decimal) -> None:
        settled.append(incoming.meta.request_id)

    scene = Scene(begin=begin, done=done, concurrency=concurrency)
    await scene.batch(*(entry(number) for number in range(5)))
    assert [answer.meta.request_id for answer in scene.answers()] == ["live-r0", "live-r3", "live-r4"]
    assert (scene.place.next, scene.place.counts) == (5, {"published": 3, "over_budget": 2})
    assert sorted(settled) == ["live-r0", "live-r3", "live-r4"]
    assert not scene.step.stopping


async def test_ids_that_were_known_are_forgotten_once_they_are_noted() -> None:
    first = Scene()
    await first.batch(entry(0))
    again = Scene(known=frozenset({first.answers()[0].meta.event_id}))
    again.step.noted()
    await again.batch(entry(0, completion(0, "live")))
    assert len(again.answers()) == 1


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_what_is_begun_is_finished_and_sent_where_a_mirror_is_taken_away(concurrency: int) -> None:
    finished: list[str] = []

    async def slow(incoming: Incoming[Any]) -> Sequence[Output]:
        await asyncio.sleep(0.02)
        finished.append(incoming.meta.request_id)
        return await Filter(policy=FilterPolicy(), clock=FakeClock(NOW))(incoming)

    async def begin(incoming: Any) -> bool:
        if incoming.meta.request_id == "live-r2":
            raise FencedError("the mirror was stopped")
        return True

    scene = Scene(slow, begin=begin, concurrency=concurrency)
    with pytest.raises(FencedError):
        await scene.batch(*(entry(number) for number in range(4)))
    assert sorted(finished) == ["live-r0", "live-r1"]
    assert [answer.meta.request_id for answer in scene.answers()] == ["live-r0", "live-r1"]
    assert (scene.step.stopping, scene.step.exhausted, scene.place.next) == (True, False, 0)
