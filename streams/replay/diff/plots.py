"""Figures of a report as coordinates: the page's templates draw them as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on an axis, in pixels, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A stretch of numbers on a stretch of pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of a number; one outside lies at the edge."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + min(1.0, max(0.0, share)) * (self.end - self.start), 2)

    def marks(self, count: int = 5) -> list[Mark]:
        """Round numbers along it, at most about so many."""
        if self.high <= self.low:
            return [Mark(self.at(self.low), f"{self.low:g}")]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(one * power for one in (1, 2, 5, 10) if one * power >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        numbers = range(first, math.floor(self.high / step + 1e-9) + 1)
        return [Mark(self.at(number * step), f"{round(number * step, 10):g}") for number in numbers]


def score_axis(scores: Sequence[Mapping[str, Any]], start: float, end: float) -> Axis:
    """An axis for the differences of scores with their intervals, with 0 in its middle."""
    ends = [abs(one["difference"]) for one in scores if one["difference"] is not None]
    ends += [abs(one["interval"][end_]) for one in scores if one["interval"] for end_ in ("low", "high")]
    far = max([0.01, *ends]) * 1.1
    return Axis(-far, far, start, end)


def bars(counts: Sequence[int], *, left: float, right: float, floor: float, height: float) -> list[dict[str, float]]:
    """The bars of a histogram: ``x``, ``y``, ``width``, ``height`` in pixels, and how many it ``count``\\ s."""
    most, width = max([1, *counts]), (right - left) / max(1, len(counts))
    return [
        {
            "x": round(left + number * width + 1, 2),
            "y": round(floor - height * count / most, 2),
            "width": round(width - 2, 2),
            "height": round(height * count / most, 2),
            "count": count,
        }
        for number, count in enumerate(counts)
    ]


def latency_lines(quantiles: Sequence[Mapping[str, float]], x: Axis, y: Axis) -> dict[str, str]:
    """The points of each side's line of quantiles, as SVG writes them."""
    return {side: " ".join(f"{x.at(one['level'])},{y.at(one[side])}" for one in quantiles) for side in ("base", "run")}
