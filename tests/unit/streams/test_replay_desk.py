"""What may be changed of a run before it is resumed."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest

from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams.replay.desk import Desk
from streams.replay.run import Place, Run, RunConfig, State
from streams.replay.runs import FakeRuns
from tests.support.settings import bare_settings


async def scene(state: State = "failed", *, done: int = 0) -> tuple[Desk, Run]:
    names: dict[str, Any] = dict.fromkeys(("run", "name", "lane"), "r1")
    stages, config = ("complete", "account"), RunConfig(sets={"temperature": "0.5"})
    run = Run(**names, source_lane="live", target="shadow", stages=stages, config=config, code_version="1", state=state)
    runs = FakeRuns()
    await runs.create(run, [Place(step=0, topic="t", partition=0, first=5, end=9, next=5 + done)])
    return Desk(bare_settings(), cast("Database", None), runs, Codec.offline()), run


@pytest.mark.parametrize("name", ["route", "admission.route"])
async def test_what_an_event_lacked_is_supplied_to_those_that_lack_it(name: str) -> None:
    desk, run = await scene(done=2)
    changed = await desk.reconfigure(run, max_cost_usd=Decimal(3), sets={name: "default"})
    assert changed.config.sets == {"temperature": "0.5"}
    assert changed.config.fills == {"admission.route": "default"}
    assert (await desk.find("r1")).config == changed.config
    assert RunConfig.from_json(changed.config.as_json()) == changed.config


async def test_another_change_waits_for_another_run_once_events_are_done() -> None:
    desk, run = await scene(done=1)
    with pytest.raises(ConfigurationError, match="--set seed: events of the run r1 are done without it"):
        await desk.reconfigure(run, max_cost_usd=None, sets={"seed": "1"})
    assert (await desk.find("r1")).config == run.config
    desk, run = await scene()
    changed = await desk.reconfigure(run, max_cost_usd=None, sets={"seed": "1"})
    assert changed.config.sets == {"temperature": "0.5", "seed": "1"}


@pytest.mark.parametrize("state", ["done", "cancelled"])
async def test_a_run_that_has_ended_stays_as_it_is(state: State) -> None:
    desk, run = await scene(state)
    with pytest.raises(ConfigurationError, match=f"the run r1 is {state}"):
        await desk.reconfigure(run, max_cost_usd=Decimal(9), sets={})
    with pytest.raises(ConfigurationError, match="has ended"):
        # It ended after it was looked at.
        await desk.reconfigure(replace(run, state="failed"), max_cost_usd=Decimal(9), sets={})
    assert (await desk.find("r1")).config == run.config


async def test_a_change_on_resuming_is_checked_as_at_the_beginning() -> None:
    desk, run = await scene()
    with pytest.raises(ConfigurationError, match="no deployment serves it"):
        await desk.reconfigure(run, max_cost_usd=None, sets={"model": "gone"})
    with pytest.raises(ConfigurationError, match="makes no calls"):
        await desk.reconfigure(replace(run, stages=("filter",)), max_cost_usd=Decimal(1), sets={})
