"""Costs go from the tables they are kept in to the topic, each until the broker has it, with the same bytes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from processors.journal import AttemptRow, CallKey
from processors.journal.late import FakeLateOutcomes, LateOutcome
from processors.spending.port import Closing, MemorySpends, Opening
from schemas.errors import DependencyDownError
from schemas.records import Cost
from streams.spending import Embeddings, Late, Telling
from streams.stages import STAGES
from tests.support.costs import cost
from tests.support.enrichments import enrichment
from tests.support.running import CODEC, LANE, NOW, Bench
from tests.support.targets import target


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
            spender=spender, lane=lane, tenant="acme", asked=b"d", owed=b"d", event=lambda _number: unknown, due_s=60.0
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


def late(name: str, value: bytes) -> LateOutcome:
    row = AttemptRow(
        attempt_id=f"a-{name}",
        ordinal=0,
        epoch=1,
        target=target("0.9"),
        state="done",
        started_at=NOW,
        ended_at=NOW,
        late_at=NOW,
        cost_usd=Decimal("0.25"),
    )
    return LateOutcome(CallKey(tenant="acme", lane=LANE, run="", request_id=name), row, value)


async def test_a_late_outcome_is_told_and_one_whose_input_nobody_can_read_holds_up_no_other() -> None:
    scene = Scene()
    services = scene.bench.runner._services
    outcomes = FakeLateOutcomes([late("broken", b"no avro"), late("r1", CODEC.encode(enrichment("r1", lane=LANE)))])
    telling = Telling([Late(outcomes, services)], services)
    scene.bench.producer.failures.append(DependencyDownError("kafka", "away"))
    with pytest.raises(DependencyDownError):
        await telling.round()
    assert [await telling.round(), await telling.round()] == [2, 0]
    [sent] = scene.bench.sent("costs")
    told = CODEC.decode(sent.value, Cost)
    assert (told.attempt_id, told.correction, told.amount_usd) == ("a-r1", "late", Decimal("-0.65"))
