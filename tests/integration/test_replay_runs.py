"""Runs as rows: the same rules in Postgres and in memory."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from processors.postgres import Database
from schemas.errors import ConfigurationError, FencedError
from streams.replay.earlier import earlier_runs
from streams.replay.run import Place, Run, RunConfig
from streams.replay.runs import FakeRuns, PostgresRuns, Runs
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


@pytest.fixture(params=["postgres", "memory"])
async def runs(request: pytest.FixtureRequest) -> AsyncIterator[Runs]:
    if request.param == "memory":
        yield FakeRuns()
        return
    database = await Database.open(request.getfixturevalue("stack").postgres_dsn)
    yield PostgresRuns(database)
    await database.close()


def run_of(**changes: Any) -> Run:
    name = secrets.token_hex(4)
    config = RunConfig(where="tenant = acme", ids=("a", "b"), max_cost_usd=Decimal("1.5"), offsets=(("t", 0, 1, 2),))
    values: dict[str, Any] = {
        "run": name,
        "name": name,
        "lane": f"replay-{name}",
        "source_lane": "live",
        "target": "shadow",
        "stages": ("filter",),
        "config": config,
        "code_version": "1",
    }
    return Run(**{**values, **changes})


def place(partition: int, **changes: Any) -> Place:
    return replace(Place(step=0, topic="t", partition=partition, first=5, end=10, next=5), **changes)


async def test_a_run_is_kept_as_it_was_asked_for(runs: Runs) -> None:
    run = run_of()
    await runs.create(run, [place(0), place(1)])
    found = await runs.get(run.name)
    assert found is not None
    assert (found.config, found.stages, found.state) == (run.config, ("filter",), "planned")
    assert (await runs.progress(run.run)).places == (place(0), place(1))
    with pytest.raises(ConfigurationError, match="already"):
        await runs.create(run_of(name=run.name), [])
    assert run.run in {one.run for one in await runs.all()}
    await runs.delete(run)
    assert await runs.get(run.run) is None


async def test_every_earlier_run_of_the_lane_is_known_also_once_it_is_deleted(stack: TestStack) -> None:
    database = await Database.open(stack.postgres_dsn)
    runs, lane = PostgresRuns(database), f"t{secrets.token_hex(4)}"
    earlier = [run_of(source_lane=lane, stages=("complete", "filter")) for _ in range(60)]
    others = [run_of(source_lane=lane), run_of(stages=("complete",)), run_of(source_lane=lane, stages=("complete",))]
    for run in (*earlier, *others):
        await runs.create(run, [])
    for run in (*earlier[::2], *others[:2]):
        await runs.delete(run)
    found = await earlier_runs(database, others[-1], "complete")
    assert found == [(run.lane, run.run) for run in reversed(earlier)]
    await database.close()


async def test_progress_is_noted_by_whoever_has_the_run_and_nobody_else(runs: Runs) -> None:
    run = run_of()
    await runs.create(run, [place(0), place(1)])
    epoch = await runs.take(run.run, owner="first")
    assert epoch == 1
    assert await runs.take(run.run, owner="second") is None, "its lease lasts"
    far = place(0, next=8, counts={"published": 3}, cost_usd=Decimal("0.25"), written={"x.answers": {0: 3}})
    await runs.save(run.run, epoch, [far])
    progress = await runs.progress(run.run)
    assert progress.places == (far, place(1))
    assert (progress.cost_usd, progress.counts()) == (Decimal("0.25"), {"published": 3})
    await runs.end(run.run, epoch, "stopped", "a reason")
    with pytest.raises(FencedError):
        await runs.save(run.run, epoch, [place(0, next=9)])
    second = await runs.take(run.run, owner="second")
    assert second == 2
    with pytest.raises(FencedError):
        await runs.renew(run.run, epoch)
    await runs.renew(run.run, second)
    await runs.begin_step(run.run, second, [replace(place(0), step=1), replace(far, next=5)])
    assert (await runs.progress(run.run)).of_step(0)[0] == far, "what is there stays as it is"
    assert await runs.cancel(run.run)
    with pytest.raises(FencedError):
        await runs.save(run.run, second, [far])
    assert await runs.take(run.run, owner="third") is None
    assert not await runs.cancel(run.run)
    with pytest.raises(FencedError):
        await runs.renew(run.run, second)
    for released, held in ((epoch, True), (second, False)):
        await runs.release(run.run, released)
        found = await runs.get(run.run)
        assert found is not None
        assert (found.lease_s > 0) is held, "its leader still finishes what it has begun"
