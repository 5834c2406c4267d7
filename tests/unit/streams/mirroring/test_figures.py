"""What a mirror tells of itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import aiohttp
import pytest

from schemas.errors import ConfigurationError
from streams.cli.mirror_text import mirror_line, mirror_text, mirror_view
from streams.mirroring.days import Day
from streams.mirroring.figures import Figures, MirrorMetrics, figures_of
from streams.mirroring.serving import serving
from streams.replay.run import Place, Progress, RunConfig
from tests.unit.streams.test_replay_step import run_of

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def figures(behind: tuple[int, datetime | None] | None = (40, NOW - timedelta(seconds=90))) -> Figures:
    config = RunConfig(sample=0.05, mirror=True, max_cost_per_day_usd=Decimal(5), sets={"model": "m2"})
    counts = {"published": 3, "refused": 1, "not_selected": 90, "over_budget": 6, "gone": 7}
    place = Place(step=0, topic="t", partition=0, first=0, end=107, next=107, counts=counts, cost_usd=Decimal(9))
    later = Place(step=1, topic="u", partition=0, first=0, end=4, next=4, counts={"published": 4})
    day = Day(day=date(2026, 1, 1), spent_usd=Decimal("4.5"), held_usd=Decimal("0.25"), calls=4)
    run = run_of(name="cheaper", stages=("complete", "account"), config=config, state="running")
    return figures_of(run, Progress((place, later)), day, behind=behind, now=NOW)


def test_figures_are_of_the_first_stage_and_what_is_gone_was_not_seen() -> None:
    found = figures()
    assert (found.seen, found.mirrored, found.over_budget, found.gone) == (100, 4, 6, 7)
    assert (found.lag_events, found.lag_s, found.cost_usd) == (40, 90.0, 9)
    assert (figures((0, None)).lag_s, figures(None).lag_s) == (0.0, None)


def test_they_are_told_in_words_and_as_json() -> None:
    text = mirror_text(figures())
    assert "complete>account of 5% of live" in text
    assert "seen 100, mirrored 4, 40 events behind (90 s)" in text
    assert "passed over for the day's budget: 6" in text
    assert "4.50 of 5.00 USD today" in mirror_line(figures())
    assert "how far behind is not known" in mirror_line(figures(None))
    view = mirror_view(figures())
    assert (view["over_budget"], view["today"]["spent_usd"], view["today"]["limit_usd"]) == (6, "4.5", "5")


async def test_they_are_served_as_metrics_once_the_mirror_is_led() -> None:
    metrics = MirrorMetrics()
    async with serving(metrics, "127.0.0.1", 0) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/readyz")).status == 503
        assert (await client.get("/livez")).status == 200
        metrics.figures = figures()
        assert (await client.get("/readyz")).status == 200
        text = await (await client.get("/metrics")).text()
        for line in (
            'headrace_mirror_events_total{mirror="cheaper",outcome="over_budget"} 6.0',
            'headrace_mirror_lag_events{mirror="cheaper"} 40.0',
            'headrace_mirror_lag_seconds{mirror="cheaper"} 90.0',
            'headrace_mirror_today_spent_usd{mirror="cheaper"} 4.5',
            'headrace_mirror_day_limit_usd{mirror="cheaper"} 5.0',
            'headrace_mirror_cost_usd_total{mirror="cheaper"} 9.0',
        ):
            assert line in text
        with pytest.raises(ConfigurationError, match="can't listen"):
            async with serving(metrics, "127.0.0.1", port):
                raise AssertionError("the port is taken")
