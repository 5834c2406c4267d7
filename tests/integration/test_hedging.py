"""Hedged calls on real Postgres and HTTP, judged by the provider's own log: which call answers, and what is booked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from processors.complete.routes import Deployment, HedgePolicy
from processors.journal import AttemptRow, CallKey, PostgresJournal
from processors.journal.entry import WORKER_LOST
from processors.journal.protocol import HEDGE_LOST
from processors.model import OpenAIClient
from processors.postgres import Database
from schemas.records import Answer
from tests.provider.process import ProviderProcess
from tests.support.complete_worker import run, start
from tests.support.completing import CODEC, PRICE, Bench
from tests.support.enrichments import enrichment, incoming
from tests.support.polling import until
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

# Longer than any test lasts.
NEVER = "slow:60"
SOON = {"before_s": 0.3, "floor_s": 0.3}


class Scene:
    """One request, whose calls meet what ``faults`` say, one each."""

    def __init__(self, stack: TestStack, provider: ProviderProcess, lane: str) -> None:
        self.dsn, self.provider, self.lane = stack.postgres_dsn, provider, lane

    def plan(self, *faults: str, **more: Any) -> dict[str, Any]:
        return {
            "dsn": self.dsn,
            "base_url": self.provider.base_url,
            "lane": self.lane,
            "lease_s": 60.0,
            "text": f"why? [[fault:{','.join(faults)}]]",
            "price": "10",
            "hedge": SOON,
            **more,
        }

    async def rows(self) -> tuple[AttemptRow, ...]:
        database = await Database.open(self.dsn)
        key = CallKey(tenant="acme", lane=self.lane, run="", request_id=self.lane)
        rows = await PostgresJournal(database).attempts_of(key)
        await database.close()
        return rows

    @property
    def paid(self) -> int:
        return self.provider.paid()[self.lane]

    def kinds(self, outputs: list[str]) -> list[str]:
        return [line.split()[0] for line in outputs]


@pytest.fixture
def scene(stack: TestStack, provider: ProviderProcess, lane: str) -> Scene:
    return Scene(stack, provider, lane)


async def test_a_fast_second_answers_for_a_slow_first_which_is_closed_and_booked(scene: Scene) -> None:
    plan = scene.plan(NEVER, "ok")
    outputs = await run(plan)
    assert scene.kinds(outputs) == ["Cost", "Cost", "Completion"]
    lost, won = await scene.rows()
    assert (lost.target.deployment, lost.state, lost.error_code) == ("d1", "unknown", HEDGE_LOST)
    assert lost.cost_usd == lost.target.bound.usd > 0 and lost.estimated and lost.upper_bound
    assert (won.target.deployment, won.state, won.estimated) == ("d2", "done", False)
    assert lost.ended_at == won.ended_at, "both were booked in one transaction"
    # Whoever tells it again says the same and buys nothing.
    assert await run(plan) == outputs and scene.paid == 2


async def test_of_two_slow_ones_the_first_to_answer_is_taken(scene: Scene) -> None:
    outputs = await run(scene.plan("slow:3", NEVER))
    assert scene.kinds(outputs) == ["Cost", "Cost", "Completion"]
    assert [(row.state, row.error_code) for row in await scene.rows()] == [("done", None), ("unknown", HEDGE_LOST)]
    assert scene.paid == 2


async def test_a_first_that_fails_meanwhile_leaves_the_answer_to_the_second(scene: Scene) -> None:
    outputs = await run(scene.plan(NEVER, "slow:6", first={"first_token_timeout_s": 3.0}))
    assert scene.kinds(outputs) == ["Cost", "Cost", "Completion"]
    rows = await scene.rows()
    assert [(row.state, row.error_code) for row in rows] == [("unknown", "timeout_first_token"), ("done", None)]
    assert scene.paid == 2


async def test_a_call_that_has_begun_is_not_hedged_however_long_its_text(scene: Scene) -> None:
    # Long enough for its first words on a busy machine.
    late = {"before_s": 3.0, "floor_s": 3.0}
    # Five words.
    outputs = await run(scene.plan("trickle:1.2", "ok", hedge=late))
    assert scene.kinds(outputs) == ["Cost", "Completion"] and scene.paid == 1
    (row,) = await scene.rows()
    assert row.duration_ms is not None and row.duration_ms > 1000 * late["before_s"]


async def test_a_kill_with_both_open_costs_one_more_call_and_books_both(scene: Scene) -> None:
    plan = scene.plan(NEVER, NEVER, "ok")
    worker = await start(plan | {"lease_s": 2.0})
    await until(lambda: scene.paid == 2, "both calls to be open", timeout_s=60)
    worker.kill()
    await worker.wait()
    assert [row.state for row in await scene.rows()] == ["calling", "calling"]
    # The third answers before it would be hedged, on a busy machine too.
    plan |= {"hedge": {"before_s": 5.0, "floor_s": 5.0}}
    outputs = await run(plan)
    assert scene.kinds(outputs) == ["Cost"] * 3 + ["Completion"]
    rows = await scene.rows()
    assert [(row.state, row.error_code) for row in rows] == [
        ("unknown", WORKER_LOST),
        ("unknown", WORKER_LOST),
        ("done", None),
    ]
    assert all(row.upper_bound and row.cost_usd == row.target.bound.usd for row in rows[:2])
    assert scene.paid == 3 and await run(plan) == outputs and scene.paid == 3


async def test_cancelling_closes_both_calls_at_the_provider(provider: ProviderProcess, lane: str) -> None:
    bench = Bench()
    client = OpenAIClient()
    bench.model = client  # type: ignore[assignment]
    first = Deployment(name="d1", model="fake", base_url=provider.base_url, price=PRICE)
    hedge = HedgePolicy(share=1.0, **SOON)
    route = replace(bench.route, deployment=first, others=(replace(first, name="d2", weight=0.0),), hedge=hedge)
    worker = bench.worker(route=route)

    def seen(name: str) -> list[str]:
        lines = (line for line in provider.calls() if line["request_id"] == lane and line["event"] == name)
        return [str(line.get("outcome", name)) for line in lines]

    running = asyncio.create_task(_all(worker(incoming(enrichment(lane, f"why? [[fault:{NEVER}]]"), CODEC))))
    await until(lambda: seen("begin") == ["begin", "begin"], "both calls to be open")
    bench.control.cancel("acme", lane)
    *costs, answer = await running
    assert isinstance(answer, Answer) and answer.failure is not None and answer.failure.code == "cancelled"
    assert len(costs) == 2 and all(cost.amount_usd > 0 and cost.upper_bound for cost in costs)
    await until(lambda: seen("end") == ["broken", "broken"], "both to be closed")
    await client.close()


async def _all(outputs: Awaitable[Sequence[Any]]) -> list[Any]:
    return list(await outputs)
