"""Rates and percentiles: what Prometheus would make of the same counts."""

from __future__ import annotations

import pytest

from streams.overview.rates import buckets_of, grown, quantile, summed

BUCKETS = {"0.1": 10.0, "0.5": 30.0, "1.0": 40.0, "+Inf": 40.0}


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.25, 0.1), (0.5, 0.3), (0.75, 0.5), (1.0, 1.0), (0.0, 0.0), (0.125, 0.05)]
)
def test_a_quantile_lies_evenly_within_its_bucket(share: float, wanted: float) -> None:
    assert quantile(BUCKETS, share) == pytest.approx(wanted)


def test_beyond_the_last_bound_there_is_nothing_better_than_that_bound() -> None:
    assert quantile({"0.1": 1.0, "0.5": 1.0, "+Inf": 100.0}, 0.95) == 0.5
    assert quantile({"+Inf": 3.0}, 0.5) == 0.0


def test_nothing_counted_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({"0.1": 0.0, "+Inf": 0.0}, 0.5) is None


def test_a_count_that_went_back_began_anew() -> None:
    assert grown({"a": 7.0, "b": 2.0, "new": 3.0}, {"a": 5.0, "b": 9.0, "gone": 1.0}) == {
        "a": 2.0,
        "b": 2.0,
        "new": 3.0,
    }


def test_counts_of_workers_are_added_by_name() -> None:
    assert summed([{"a": 1.0}, {}, {"a": 2.0, "b": 3.0}]) == {"a": 3.0, "b": 3.0}
    assert buckets_of({"buckets": [["0.1", 1], ["+Inf", 2]]}) == {"0.1": 1.0, "+Inf": 2.0}
    assert buckets_of({}) == {}
