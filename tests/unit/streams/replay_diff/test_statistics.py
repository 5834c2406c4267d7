"""Intervals and tests of paired differences, against figures that are known."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.replay.diff.statistics import LARGE, changes_p, mean_interval, paired_p

# Darwin's maize: heights of crossed less self-fertilised plants, in eighths of an inch (Fisher, 1935, section 21).
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_fishers_own_example_gives_fishers_own_figure() -> None:
    # 863 of the 32,768 ways to flip the signs reach the sum of 314 on each side.
    assert paired_p(MAIZE) == pytest.approx(2 * 863 / 32_768, abs=1e-12)


def test_ways_that_are_drawn_agree_with_all_of_them() -> None:
    # Twice the pairs are too many to flip in every way; the normal distribution is close by then.
    twice = np.asarray(MAIZE * 2, dtype=float)
    z = twice.sum() / math.sqrt((twice**2).sum())
    assert paired_p(twice) == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.006)


def test_no_difference_is_no_finding_and_one_in_the_same_way_always_is() -> None:
    assert paired_p([]) is None
    assert paired_p([0.0, 0.0]) == 1.0
    assert paired_p([1.0] * 10) == 2 / 2**10
    assert paired_p([0.1] * (LARGE + 1)) == 0.0
    assert 0.2 < (paired_p(np.random.default_rng(1).normal(0, 1, LARGE * 2)) or 0) < 1


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12))
def test_which_side_is_which_does_not_matter_to_the_test(differences: list[float]) -> None:
    there, back = paired_p(differences), paired_p([-one for one in differences])
    assert there == pytest.approx(back)
    assert there is not None and 0 < there <= 1


def test_a_true_mean_lies_in_the_interval_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    within = 0
    for number in range(200):
        # Skewed, as costs and latencies are; the true mean is 1.
        found = mean_interval(generator.exponential(1.0, 40), seed=number)
        assert found is not None
        within += found.low <= 1.0 <= found.high
    assert 0.88 <= within / 200 <= 0.985


def test_the_interval_of_maize_is_near_students_and_leans_as_its_skew_does() -> None:
    found = mean_interval(MAIZE)
    assert found is not None
    # Student's interval is 0.03 to 41.84; the bootstrap's is a little narrower, and lower for the long lower tail.
    assert -3 < found.low < 4 and 34 < found.high < 41.84
    assert 314 / 15 - found.low > found.high - 314 / 15


def test_the_interval_of_a_skewed_sample_leans_to_its_long_tail() -> None:
    values = np.random.default_rng(11).exponential(1.0, 20)
    found = mean_interval(values)
    means = values[np.random.default_rng(12).integers(0, 20, (20_000, 20))].mean(axis=1)
    # Efron's acceleration of a mean is its skewness over 6 times the root of how many values there are; of the mean's
    # own bias there is next to none.
    a = float(((values - values.mean()) ** 3).mean() / values.std() ** 3 / 6 / math.sqrt(20))
    z = 1.959964
    plain = NormalDist()
    low, high = np.quantile(means, [plain.cdf(-z / (1 + a * z)), plain.cdf(z / (1 - a * z))])
    assert found is not None and a > 0.04
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    assert found.high > np.quantile(means, 0.975) + 0.02


def test_the_bootstrap_and_the_normal_interval_meet_where_one_takes_over() -> None:
    values = np.random.default_rng(3).normal(5, 2, LARGE + 1)
    few, many = mean_interval(values[:-1]), mean_interval(values)
    assert few is not None and many is not None
    assert few.low == pytest.approx(many.low, abs=0.01)
    assert few.high == pytest.approx(many.high, abs=0.01)


def test_values_that_tell_nothing_have_no_width_or_no_interval() -> None:
    assert mean_interval([1.0]) is None
    same = mean_interval([0.5] * 9)
    assert same is not None and (same.low, same.high) == (0.5, 0.5)


def test_the_same_pairs_give_the_same_figures_every_time() -> None:
    values = np.random.default_rng(5).normal(0.1, 1, 300)
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4)
    assert paired_p(values, seed=4) == paired_p(values, seed=4)


@pytest.mark.parametrize(
    ("worse", "better", "p"),
    [(0, 0, None), (1, 9, 22 / 1024), (9, 1, 22 / 1024), (5, 5, 1.0), (0, 6, 2 / 64), (600, 400, 3.1e-10)],
)
def test_mcnemars_test_is_the_binomials(worse: int, better: int, p: float | None) -> None:
    found = changes_p(worse, better)
    assert found is None if p is None else found == pytest.approx(p, rel=0.2 if worse + better == 1_000 else 1e-9)


def test_the_exact_and_the_normal_test_of_changes_meet_where_one_takes_over() -> None:
    exact, normal = changes_p(530, 470), changes_p(531, 470)
    assert exact is not None and normal is not None
    assert exact == pytest.approx(normal, rel=0.1)
