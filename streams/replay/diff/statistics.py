"""How sure a difference is: intervals by the bootstrap, and tests of paired differences.

Everything is drawn from a fixed seed, so the same pairs give the same figures every time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 2_000
FLIPS = 10_000
# So many values are flipped in every way there is: 2^16 sums.
EXACT = 16
# From here on the mean of values between fixed bounds is normal, and resampling tells nothing more.
LARGE = 5_000
# Numbers drawn at once, which bounds the memory: 16 MB.
_AT_ONCE = 2_000_000
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the true mean lies, at 95 %."""

    low: float
    high: float


def mean_interval(values: ArrayLike, *, seed: int = 0) -> Interval | None:
    """The interval of a mean; ``None`` for fewer than two values.

    By the bias-corrected and accelerated bootstrap (Efron, 1987); by the normal distribution for over 5,000 values.
    """
    found = _array(values)
    if found.size < 2:
        return None
    mean = float(found.mean())
    if float(np.ptp(found)) == 0.0:
        return Interval(mean, mean)
    if found.size > LARGE:
        away = _NORMAL.inv_cdf(0.5 + LEVEL / 2) * float(found.std(ddof=1)) / math.sqrt(found.size)
        return Interval(mean - away, mean + away)
    means = _resampled(found, seed)
    low, high = np.quantile(means, _corrected(found, means))
    return Interval(float(low), float(high))


def _resampled(values: Numbers, seed: int) -> Numbers:
    """The means of samples drawn from the values, with replacement."""
    generator = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // values.size)
    means = [
        values[generator.integers(0, values.size, (min(rows, RESAMPLES - start), values.size))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(means)


def _corrected(values: Numbers, means: Numbers) -> tuple[float, float]:
    """The quantiles of the resampled means that bound the interval."""
    below = float((means < values.mean()).mean() + (means == values.mean()).mean() / 2)
    bias = _NORMAL.inv_cdf(min(max(below, 1 / means.size), 1 - 1 / means.size))
    # The mean of all but one, for each one.
    left_out = (values.sum() - values) / (values.size - 1)
    spread = left_out.mean() - left_out
    squares = float((spread**2).sum())
    acceleration = float((spread**3).sum()) / (6 * squares**1.5) if squares else 0.0

    def quantile(level: float) -> float:
        z = bias + _NORMAL.inv_cdf(level)
        return _NORMAL.cdf(bias + z / (1 - acceleration * z))

    return quantile((1 - LEVEL) / 2), quantile((1 + LEVEL) / 2)


def paired_p(differences: ArrayLike, *, seed: int = 0) -> float | None:
    """How likely a mean difference so far from 0 is if neither side were better; ``None`` where there is no pair.

    Fisher's test by flipping signs: every way for up to 16 differences that are not 0, 10,000 ways drawn for more, and
    by the normal distribution for over 5,000. Two-sided.
    """
    found = _array(differences)
    if not found.size:
        return None
    changed = found[found != 0.0]
    if not changed.size:
        return 1.0
    if found.size > LARGE:
        error = float(found.std(ddof=1)) / math.sqrt(found.size)
        return _two_sided(abs(float(found.mean())) / error) if error else 0.0
    # What is equal but for its rounding counts as equal.
    least = abs(float(changed.sum())) * (1 - 1e-12)
    if changed.size <= EXACT:
        signs = 1 - 2 * ((np.arange(2**changed.size)[:, None] >> np.arange(changed.size)) & 1)
        return float((np.abs(signs @ changed) >= least).mean())
    generator, beyond = np.random.default_rng(seed), 0
    rows = max(1, _AT_ONCE // changed.size)
    for start in range(0, FLIPS, rows):
        signs = 1 - 2 * generator.integers(0, 2, (min(rows, FLIPS - start), changed.size), dtype=np.int8)
        beyond += int((np.abs(signs @ changed) >= least).sum())
    return (beyond + 1) / (FLIPS + 1)


def changes_p(worse: int, better: int) -> float | None:
    """McNemar's test: how likely such a split of the changes is if either way were as likely; ``None`` without any.

    Exact up to 1,000 changes, by the normal distribution for more. Two-sided.
    """
    count, fewer = worse + better, min(worse, better)
    if not count:
        return None
    if count > 1_000:
        # A step of one is taken off, as counts go by steps of two.
        return _two_sided(max(0.0, abs(worse - better) - 1) / math.sqrt(count))
    return min(1.0, 2 * sum(math.comb(count, k) for k in range(fewer + 1)) / 2.0**count)


def _two_sided(z: float) -> float:
    """How likely a normal figure is so far from 0."""
    return math.erfc(z / math.sqrt(2))


def _array(values: Any) -> Numbers:
    return np.asarray(values, dtype=np.float64)
