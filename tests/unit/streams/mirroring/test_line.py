"""A stage of a mirror among the others."""

from __future__ import annotations

from decimal import Decimal
from typing import cast

import pytest

from processors.clock import FakeClock
from processors.postgres import Database
from schemas.codec import Codec
from streams.mirroring.days import FakeDays
from streams.mirroring.line import Line
from streams.replay.run import Place, Run, RunConfig
from streams.replay.runs import FakeRuns
from streams.stages import STAGES
from tests.support.settings import bare_settings
from tests.unit.streams.test_replay_step import run_of


def line(run: Run, number: int, runs: FakeRuns | None = None) -> Line:
    return Line(
        bare_settings(),
        cast("Database", None),
        runs or FakeRuns(),
        Codec.offline(),
        FakeClock(),
        run=run,
        epoch=1,
        number=number,
        days=FakeDays(Decimal(1)),
    )


@pytest.mark.parametrize(
    ("stages", "holders"),
    [
        (("complete", "evaluate", "account"), ["r1", "r1.evaluate", "r1.account"]),
        (("enrich", "complete", "account"), ["r1.enrich", "r1", "r1.account"]),
        (("evaluate",), ["r1"]),
    ],
)
def test_stages_side_by_side_do_not_tell_in_each_other_s_place(stages: tuple[str, ...], holders: list[str]) -> None:
    run = run_of(stages=stages, config=RunConfig(mirror=True))
    found = [line(run, number)._holder(run, STAGES[name]) for number, name in enumerate(stages)]
    assert found == holders


async def test_how_far_the_lane_is_written_is_noted_once_all_of_it_is_done() -> None:
    run, runs = run_of(config=RunConfig(mirror=True)), FakeRuns()
    place = Place(step=0, topic="live.completions", partition=0, first=0, end=4, next=4)
    await runs.create(run, [place])
    assert await runs.take(run.run, owner="a test") == 1
    mine = line(run, 0, runs)
    mine.places = {("live.completions", 0): place}
    ends = {"replay-r1.answers": {0: 9}}
    # Something may lie there that is not noted yet.
    mine.resumed = True
    await mine.checkpoint(ends)
    assert (await runs.progress(run.run)).places == (place,)
    mine.resumed = False
    await mine.checkpoint(ends)
    assert (await runs.progress(run.run)).places[0].written == ends
