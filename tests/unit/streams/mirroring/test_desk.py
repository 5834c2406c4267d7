"""What may be asked of a mirror, and what becomes of one that is asked for again."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest

from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams.mirroring.desk import Asked, changed, mirror_of, mirrors, started
from streams.replay.desk import Desk
from streams.replay.run import Run, RunConfig
from streams.replay.runs import FakeRuns
from tests.support.settings import bare_settings

FULL = Asked(
    stage="complete", share=0.1, where="tenant = acme", sets={"seed": "7"}, per_day_usd=Decimal("2.50"), lane="live"
)


async def scene(**changes: Any) -> tuple[Desk, Run]:
    config = RunConfig(
        sample=0.1, where="tenant = acme", sets={"seed": "7"}, mirror=True, max_cost_per_day_usd=Decimal("2.5")
    )
    values: dict[str, Any] = {
        "run": "m1", "name": "cheaper", "lane": "replay-m1", "source_lane": "live", "target": "shadow",
        "stages": ("complete", "account"), "config": config, "code_version": "1", "state": "stopped",
    }  # fmt: skip
    run, runs = Run(**{**values, **changes}), FakeRuns()
    await runs.create(run, [])
    return Desk(bare_settings(), cast("Database", None), runs, Codec.offline()), run


def test_what_was_asked_for_is_kept_as_it_was() -> None:
    config = RunConfig(mirror=True, max_cost_per_day_usd=Decimal("0.000001"), sample=0.05)
    assert RunConfig.from_json(config.as_json()) == config
    assert RunConfig.from_json({}) == RunConfig()


@pytest.mark.parametrize("asked", [FULL, Asked(), Asked(share=0.1), replace(FULL, per_day_usd=Decimal("2.5000"))])
async def test_the_same_mirror_goes_on(asked: Asked) -> None:
    desk, _ = await scene()
    run, new = await started(desk, "cheaper", asked)
    assert (run.run, new) == ("m1", False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"share": 0.2}, "--share is 0.1, and not 0.2"),
        ({"per_day_usd": Decimal(9)}, "--max-cost-per-day is 2.5, and not 9"),
        ({"sets": {"seed": "8"}}, "--set is seed=7, and not seed=8"),
        ({"where": ""}, "--where is tenant = acme, and not nothing"),
        ({"through": "filter"}, "--stage/--through is complete>account, and not complete>filter>account"),
        ({"rate": 3.0}, "--rate is nothing, and not 3.0"),
        ({"lane": "bulk"}, "--lane is live, and not bulk"),
    ],
)
async def test_another_mirror_by_the_same_name_is_refused_with_what_differs(change: dict[str, Any], said: str) -> None:
    desk, _ = await scene()
    with pytest.raises(ConfigurationError) as refused:
        await started(desk, "cheaper", replace(FULL, **change))
    assert said in str(refused.value)
    assert "headrace replay mirror delete cheaper" in str(refused.value)


async def test_its_budget_rate_and_workers_can_be_changed_while_nobody_leads_it() -> None:
    desk, run = await scene()
    more = await changed(desk, run, Asked(per_day_usd=Decimal(9), workers=4))
    assert (more.config.max_cost_per_day_usd, more.config.workers, more.config.sample) == (9, 4, 0.1)
    assert (await mirror_of(desk, "cheaper")).config == more.config
    await started(desk, "cheaper", replace(FULL, per_day_usd=Decimal(9)))
    with pytest.raises(ConfigurationError, match="say what is to be changed"):
        await changed(desk, run, Asked())
    await desk.runs.take(run.run, owner="somebody")
    with pytest.raises(ConfigurationError, match="in another process's hands"):
        await changed(desk, run, Asked(rate=2.0))


async def test_a_mirror_that_was_stopped_for_good_does_not_begin_again() -> None:
    desk, _ = await scene(state="cancelled")
    with pytest.raises(ConfigurationError, match="was stopped for good; choose another name"):
        await started(desk, "cheaper", FULL)


async def test_a_replay_is_no_mirror_and_an_unknown_name_gets_the_nearest() -> None:
    desk, run = await scene()
    other = replace(run, run="r1", name="backtest", lane="replay-r1", config=RunConfig())
    await desk.runs.create(other, [])
    with pytest.raises(ConfigurationError, match="backtest is a replay and no mirror"):
        await started(desk, "backtest", FULL)
    with pytest.raises(ConfigurationError, match="cheaper"):
        await mirror_of(desk, "cheapr")
    assert [one.name for one in await mirrors(desk)] == ["cheaper"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"share": 0.0}, "--share 0: it has to be above 0"),
        ({"share": 1.01}, "at most 1"),
        ({"share": float("nan")}, "--share nan"),
        ({"per_day_usd": None}, "--max-cost-per-day is missing"),
        ({"sets": {"model": "m9"}}, "--set model=m9: no deployment serves it"),
        ({"sets": {"nonsense": "1"}}, "--set nonsense"),
        ({"where": "status = answered"}, "known once it is answered"),
        ({"where": "score.format < 1"}, "known once it is answered"),
        ({"where": "tenent = acme"}, "tenant"),
        ({"where": "model = m1"}, "requested_model is the model that a request names"),
        ({"stage": "admit"}, "is not replayed"),
        ({"stage": "account"}, "books are not mirrored"),
        ({"stage": "filter", "sets": {}}, "makes no calls, so there is nothing to limit"),
    ],
)
async def test_what_can_not_be_mirrored_is_refused_before_anything_is_begun(change: dict[str, Any], said: str) -> None:
    desk, _ = await scene()
    with pytest.raises(ConfigurationError) as refused:
        await started(desk, "another", replace(FULL, **change))
    assert said in str(refused.value)
    assert [one.name for one in await mirrors(desk)] == ["cheaper"]
