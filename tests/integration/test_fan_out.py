"""Fanned-out requests on real Postgres and HTTP: too few answers, a kill between two steps, two workers at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from processors.journal import CallKey, Ended, PostgresJournal
from processors.postgres import Database
from tests.provider.process import ProviderProcess
from tests.support.complete_worker import die, run
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


class Scene:
    """One request of three samples, whose calls meet what ``faults`` say, one each."""

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
            "fan_out": {"aggregate": "vote", "samples": 3, "needed": 3},
            **more,
        }

    async def outcomes(self) -> list[Any]:
        """What the request's call and those of its samples have ended with."""
        database = await Database.open(self.dsn)
        journal = PostgresJournal(database)
        key = CallKey(tenant="acme", lane=self.lane, run="", request_id=self.lane)
        samples = [replace(key, purpose="sample", ordinal=number) for number in range(3)]
        found = [await journal.outcome_of(one) for one in (key, *samples)]
        await database.close()
        return found

    @property
    def paid(self) -> int:
        return self.provider.paid()[self.lane]


@pytest.fixture
def scene(stack: TestStack, provider: ProviderProcess, lane: str) -> Scene:
    return Scene(stack, provider, lane)


def kinds(outputs: list[str]) -> list[str]:
    return [line.split()[0] for line in outputs]


async def test_too_few_answers_end_the_request_with_the_first_reason_and_every_cost(scene: Scene) -> None:
    plan = scene.plan("ok", "400", "ok")
    outputs = await run(plan)
    assert kinds(outputs) == ["Cost"] * 4 + ["Answer"]
    whole, *samples = await scene.outcomes()
    assert isinstance(whole, Ended) and whole.failure.code == "http_400"
    assert [row.cost_usd for row in whole.attempts] == [0]
    assert sorted(type(one).__name__ for one in samples) == ["Done", "Done", "Ended"]
    assert await run(plan) == outputs and scene.paid == 2


async def test_a_kill_once_all_have_ended_buys_nothing_more(scene: Scene) -> None:
    plan = scene.plan("ok")
    await die(plan | {"lease_s": 0.6}, "after_samples")
    assert scene.paid == 3
    whole, *samples = await scene.outcomes()
    assert whole is None and None not in samples
    outputs = await run(plan)
    assert kinds(outputs) == ["Cost"] * 3 + ["Completion"] and scene.paid == 3


async def test_two_workers_at_once_pay_for_each_sample_once_and_say_the_same(scene: Scene) -> None:
    plan = scene.plan("ok")
    first, second = await asyncio.gather(run(plan), run(plan))
    assert first == second and kinds(first) == ["Cost"] * 3 + ["Completion"] and scene.paid == 3
