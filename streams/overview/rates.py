"""Rates and percentiles from counts that only grow: the difference between two looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Buckets = Mapping[str, float]


def quantile(buckets: Buckets, share: float) -> float | None:
    """The quantile of a histogram, in its unit, as Prometheus computes it; None where nothing was counted.

    ``buckets``: counts of events under an upper bound, each including those below; the last bound is ``+Inf``. Within
    a bucket events are taken to be spread evenly; beyond the last bound there is nothing better than that bound.
    """
    ordered = sorted((float(bound), count) for bound, count in buckets.items())
    if not ordered or ordered[-1][1] <= 0:
        return None
    wanted = share * ordered[-1][1]
    below, before = 0.0, 0.0
    for bound, count in ordered:
        if count >= wanted and count > before:
            if bound == float("inf"):
                return below
            return below + (bound - below) * (wanted - before) / (count - before)
        below, before = bound, count
    return below


def grown(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What was counted since. A count that went back began anew."""
    return {
        name: value - before.get(name, 0.0) if value >= before.get(name, 0.0) else value for name, value in now.items()
    }


def summed(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Counts by name over several workers."""
    total: dict[str, float] = {}
    for each in counts:
        for name, value in each.items():
            total[name] = total.get(name, 0.0) + value
    return total


def buckets_of(histogram: Mapping[str, Any]) -> dict[str, float]:
    """The counts by upper bound of a reported histogram."""
    return {str(bound): float(count) for bound, count in histogram.get("buckets", ())}
