"""Costs of embeddings go from their book to the topic, each until the broker has it, with the same bytes every time."""

from __future__ import annotations

from typing import Any

import pytest

from processors.spending.port import Closing, MemorySpends, Opening
from schemas.errors import DependencyDownError
from schemas.records import Cost
from streams.spending import Embeddings, Telling
from streams.stages import STAGES
from tests.support.costs import cost
from tests.support.running import CODEC, LANE, Bench


class Scene:
    def __init__(self) -> None:
        async def unused(_incoming: Any) -> Any:
            raise AssertionError

        self.bench = Bench(unused, stage=STAGES["enrich"])
        self.spends = MemorySpends(self.bench.clock)
        services = self.bench.runner._services
        self.telling = Telling([Embeddings(self.spends, services)], services)

    async def open(self, spender: str = "s1", *, lane: str = LANE) -> None:
        unknown = CODEC.encode(cost(f"{spender}-0", "0.9", lane=lane, state="unknown"))
        opening = Opening(
            spender=spender, lane=lane, tenant="acme", asked=b"d", event=lambda _number: unknown, due_s=60.0
        )
        await self.spends.open([opening])

    async def close(self, spender: str = "s1", amount: str = "0.1") -> None:
        done = CODEC.encode(cost(f"{spender}-0", amount, lane=LANE))
        await self.spends.close([Closing(spender=spender, ordinal=0, event=done)])

    def amounts(self) -> list[tuple[str, str]]:
        costs = [CODEC.decode(one.value, Cost) for one in self.bench.sent("costs")]
        return [(one.state, f"{one.amount_usd.normalize():f}") for one in costs]

    def later(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)


async def test_what_is_closed_is_told_once() -> None:
    scene = Scene()
    await scene.open()
    assert await scene.telling.round() == 0, "it is under way"
    await scene.close()
    assert [await scene.telling.round(), await scene.telling.round()] == [1, 0]
    assert scene.amounts() == [("done", "0.1")]
    [sent] = scene.bench.sent("costs")
    assert dict(sent.headers)["ce_type"] == b"headrace.Cost" and sent.key


async def test_what_the_broker_did_not_take_is_told_again_with_the_same_bytes() -> None:
    scene = Scene()
    await scene.open()
    await scene.close()
    scene.bench.producer.failures.append(DependencyDownError("kafka", "away"))
    with pytest.raises(DependencyDownError):
        await scene.telling.round()
    assert await scene.telling.round() == 0, "another worker may be at it"
    scene.later(60)
    assert await scene.telling.round() == 1 and scene.amounts() == [("done", "0.1")]


async def test_what_nobody_closed_is_told_at_its_bound_and_stays_so() -> None:
    scene = Scene()
    await scene.open()
    scene.later(90)
    assert await scene.telling.round() == 1
    await scene.close()
    assert await scene.telling.round() == 0 and scene.amounts() == [("unknown", "0.9")]


async def test_a_worker_tells_of_its_own_lane_only() -> None:
    scene = Scene()
    await scene.open("other", lane="bulk")
    scene.later(90)
    assert await scene.telling.round() == 0
