"""A mirror beside live: over what it has made so far, of requests that were accepted since a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from schemas.records import Answer
from streams.replay.diff.gate import Bounds, check, passed
from streams.replay.diff.lanes import both
from streams.replay.diff.making import compare_all, heading
from streams.replay.diff.report import report, seed_of
from streams.replay.diff.sides import FakeTopics, Sides
from streams.replay.diff.store import Pairs, Side
from streams.replay.run import RunConfig
from tests.support.comparing import CODEC, NOW, answer, evaluation, lying, run_of


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    with Pairs() as made:
        yield made


def of(request_id: str, hours_ago: int, **fields: Any) -> Answer:
    """An answer to a request that was accepted so many hours before."""
    made = answer(request_id, **fields)
    return replace(made, meta=replace(made.meta, accepted_at=NOW - timedelta(hours=hours_ago)))


def texts(pairs: Pairs, since: datetime | None) -> list[str]:
    live = [of("old", 5), of("new", 1), of("newer", 0)]
    ours = [of("old", 5, run="r1"), of("new", 1, run="r1"), of("newer", 0, run="r1")]
    topics = {
        "live.answers": live,
        "replay-r1.answers": ours,
        "live.evaluations": [evaluation(one, support=0.5) for one in live],
        "replay-r1.evaluations": [evaluation(one, support=0.5) for one in ours],
    }
    # Each lies in its topic from NOW on, whenever its request was accepted.
    found = [entry for topic, records in topics.items() for entry in lying(topic, records)]
    sides = Sides(
        FakeTopics(found), CODEC, pairs, prefix="", whole=lambda record, _: record, unreadable=Counter(),
        count=lambda _: None, since=since,
    )  # fmt: skip
    run = run_of(stages=("filter", "evaluate"))
    what = both(run, None)
    sides.run(Side.RUN, run, what, None)
    sides.live(run, what, NOW - timedelta(hours=9))
    return sorted(base.request_id for base, _, _ in pairs.pairs())


def test_all_of_them_are_compared_where_no_time_is_said(pairs: Pairs) -> None:
    assert texts(pairs, None) == ["new", "newer", "old"]


def test_of_a_mirror_that_runs_for_weeks_the_latest_are_compared(pairs: Pairs) -> None:
    assert texts(pairs, NOW - timedelta(hours=2)) == ["new", "newer"]
    assert pairs.scores("acme", "new") == {"support": (0.5, 0.5)}


def reported(pairs: Pairs, state: Any, *, mirror: bool) -> dict[str, Any]:
    for number in range(4):
        one, other = answer(f"r{number}"), answer(f"r{number}", run="r1")
        for side, said in ((Side.BASE, one), (Side.RUN, other)):
            if number or side is Side.BASE:
                pairs.put(side, both(run_of(), None).says(said))  # type: ignore[arg-type]
        pairs.want("acme", f"r{number}")
    compare_all(pairs, (), 0.05)
    run = run_of(state=state, config=RunConfig(mirror=mirror))
    return {**heading(run, None, both(run, None)), "notes": [], **report(pairs, shown=1, seed=seed_of("r1"))}


@pytest.mark.parametrize(
    ("state", "mirror", "good"),
    [
        ("running", True, True),
        ("stopped", True, True),
        ("cancelled", True, True),
        ("failed", True, False),
        ("running", False, False),
    ],
)
def test_a_mirror_need_not_have_ended_and_what_it_passed_over_is_no_loss(
    pairs: Pairs, state: str, mirror: bool, good: bool
) -> None:
    found = reported(pairs, state, mirror=mirror)
    checked = check(found, Bounds(max_regressions=0, min_pairs=3))
    assert passed(checked) is good
    lost = next(one for one in checked if one.name == "regressions")
    assert lost.figure == ("0 of 3 (0.00%)" if mirror else "1 of 4 (25.00%), 1 without an output")
