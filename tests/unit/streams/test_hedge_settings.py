"""The settings of second calls: what the stage gets of them, and what is refused with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from processors.complete.routes import HedgePolicy
from schemas.errors import ConfigurationError
from streams.deployed import routes
from tests.unit.streams.test_several_settings import BASE, load

HEDGE = "[routes.default.hedge]\n"


@pytest.mark.parametrize(
    ("more", "line", "said"),
    [
        (HEDGE + "share = 1.5", 26, "less than or equal to 1"),
        (HEDGE + "share = 0", 26, "greater than 0"),
        (HEDGE + "quantile = 1", 26, "less than 1"),
        (HEDGE + "floor_s = 0", 26, "greater than 0"),
        (HEDGE + "floor_s = 90", 26, "when every call of the route has ended"),
        (HEDGE + "before_s = 600", 26, "when every call of the route has ended (90 s)"),
        (HEDGE + "minimum_samples = 0", 26, "greater than or equal to 1"),
        (HEDGE + "minimum_samples = 501", 26, "less than or equal to 500"),
        (HEDGE + "after_s = 3", 26, "after_s"),
        ("max_attempts = 1\n" + HEDGE, 26, "needs max_attempts = 2 or more"),
        ('unknown_policy = "never-repeat"\n' + HEDGE, 26, 'needs unknown_policy = "repeat"'),
        ('unknown_policy = "reconcile"\n' + HEDGE, 26, 'needs unknown_policy = "repeat"'),
    ],
)
def test_what_makes_no_sense_is_refused_with_file_and_line(tmp_path: Path, more: str, line: int, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(tmp_path, BASE + more + "\n")
    assert said in str(refused.value) and f"headrace.toml:{line}:" in str(refused.value)


def test_a_route_with_the_section_sends_second_calls_and_no_other_route_does(tmp_path: Path) -> None:
    made = routes(load(tmp_path, BASE + HEDGE + "floor_s = 2\nshare = 0.1\n"))
    assert made["default"].hedge == HedgePolicy(floor_s=2, share=0.1)
    assert made["strong"].hedge is None
    assert routes(load(tmp_path, BASE + HEDGE))["default"].hedge == HedgePolicy()


def test_a_route_of_short_calls_may_leave_the_first_wait_as_it_is(tmp_path: Path) -> None:
    short = BASE.replace('model = "small"', 'model = "small"\ntotal_timeout_s = 4')
    short = short.replace('model = "other"', 'model = "other"\ntotal_timeout_s = 4')
    assert routes(load(tmp_path, short + HEDGE))["default"].hedge == HedgePolicy()
    with pytest.raises(ConfigurationError, match=r"before_s.* is 5 s, when every call of the route has ended \(4 s\)"):
        load(tmp_path, short + HEDGE + "before_s = 5\n")
