"""However a run that is led ends, its end is told once, after whatever was told before."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams.lineage.happening import FakeLineage
from streams.lineage.replays import ReplayLineage, lineage_id
from streams.replay.conduct import Conductor
from streams.replay.desk import Desk
from streams.replay.run import Place, Run, RunConfig
from streams.replay.runs import FakeRuns
from streams.replay.work import Ended
from tests.support.polling import until
from tests.support.settings import bare_settings

SETTINGS = bare_settings(lineage={"running_s": 0.001})


class Now:
    async def now(self) -> datetime:
        return datetime.now(UTC)


class Led(Conductor):
    """Leads a run to an end that was decided before; ``while_`` is awaited in the middle of it."""

    end: Ended | Exception = Ended("done")
    while_: Any = None

    async def _lead(self, run: Run, epoch: int) -> Ended:
        if self.while_ is not None:
            await self.while_()
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


async def scene() -> tuple[Led, FakeLineage, FakeRuns, Run]:
    names: dict[str, Any] = dict.fromkeys(("run", "name", "lane"), "r1")
    run = Run(**names, source_lane="live", target="shadow", stages=("filter",), config=RunConfig(), code_version="1")
    runs, lineage = FakeRuns(), FakeLineage()
    await runs.create(run, [Place(step=0, topic="live.completions", partition=0, first=5, end=9, next=5)])
    telling = ReplayLineage(SETTINGS, runs, Codec.offline(), lineage)
    led = Led(SETTINGS, cast("Database", Now()), runs, Codec.offline(), lineage=telling)
    return led, lineage, runs, run


@pytest.mark.parametrize(
    ("end", "phase", "said"),
    [
        (Ended("done"), "COMPLETE", ""),
        (Ended("stopped", "--max-cost is reached"), "ABORT", "--max-cost is reached"),
        (Ended("failed", "a topic is gone"), "FAIL", "a topic is gone"),
        (Ended("cancelled", "cancelled by an operator"), "ABORT", "cancelled by an operator"),
    ],
)
async def test_the_end_is_told(end: Ended, phase: str, said: str) -> None:
    led, lineage, _, run = await scene()
    led.end = end
    assert await led.lead(run) == end
    assert [(told.phase, told.error) for told in lineage.told] == [("START", ""), (phase, said)]


async def test_what_is_raised_is_told_without_its_words_and_raised() -> None:
    led, lineage, _, run = await scene()
    led.end = RuntimeError("what the user asked")
    with pytest.raises(RuntimeError):
        await led.lead(run)
    assert [told.phase for told in lineage.told] == ["START", "FAIL"]
    assert "what the user asked" not in lineage.told[1].error


async def test_a_run_that_goes_on_says_so_and_nothing_after_its_end() -> None:
    led, lineage, _, run = await scene()
    led.while_ = lambda: until(lambda: len(lineage.told) > 3, "it goes on")
    await led.lead(run)
    phases = [told.phase for told in lineage.told]
    assert (phases[0], set(phases[1:-1]), phases[-1]) == ("START", {"RUNNING"}, "COMPLETE")
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(lineage.told) == len(phases)


async def test_a_run_that_another_process_has_is_not_told() -> None:
    led, lineage, runs, run = await scene()
    runs.runs["r1"] = replace(run, state="done")
    with pytest.raises(ConfigurationError):
        await led.lead(run)
    assert lineage.told == []


async def test_cancelling_a_run_whose_process_died_ends_it() -> None:
    _, lineage, runs, run = await scene()
    desk = Desk(SETTINGS, cast("Database", None), runs, Codec.offline())
    desk._lineage = lineage
    led = replace(run, state="running", epoch=2)
    runs.runs["r1"] = led
    assert await desk.cancel(led)
    assert [(told.phase, told.run_id) for told in lineage.told] == [("ABORT", lineage_id("r1", 2))]
    # One that is led says so itself.
    runs.runs["r1"] = replace(led, lease_s=5.0)
    assert await desk.cancel(runs.runs["r1"])
    assert len(lineage.told) == 1
