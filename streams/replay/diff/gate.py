"""Whether a run is good enough: bounds on the figures of its report, for CI and for a canary.

A bound that too few pairs speak about fails: no figure is no proof.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from schemas.errors import ConfigurationError
from streams.replay.where import nearest

MIN_PAIRS = 30
# A figure that is at its bound but for the rounding of its mean holds.
ROUNDING = 1e-9
# A bound on every score that there is.
ALL = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is demanded; shares as numbers, 0.1 for 10 %. ``None`` and empty: nothing.

    ``most_regressions`` is a share of the pairs where ``regressions_share`` says so.
    """

    min_score: Mapping[str, float] = field(default_factory=dict)
    max_score_drop: Mapping[str, float] = field(default_factory=dict)
    max_cost_increase: float | None = None
    max_latency_increase: float | None = None
    max_regressions: float | None = None
    regressions_share: bool = False
    min_pairs: int = MIN_PAIRS

    @property
    def any(self) -> bool:
        """Whether something is demanded."""
        limits = (self.max_cost_increase, self.max_latency_increase, self.max_regressions)
        return bool(self.min_score or self.max_score_drop) or any(one is not None for one in limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A bound with its figure; ``figure`` is ``None`` where there is none."""

    name: str
    bound: str
    figure: str | None
    passed: bool
    reason: str = ""


def check(report: Mapping[str, Any], bounds: Bounds) -> list[Checked]:
    """Hold a report against bounds. Raises ``ConfigurationError`` for a score that nobody knows."""
    found = [_done(report)]
    found += [_score(report, name, least, bounds) for name, least in _each(report, bounds.min_score, "--min-score")]
    drops = _each(report, bounds.max_score_drop, "--max-score-drop")
    found += [_drop(report, name, most, bounds) for name, most in drops]
    if bounds.max_cost_increase is not None:
        cost = report["cost"]
        increase = _increase(Decimal(cost["base_usd"]), Decimal(cost["run_usd"]))
        found.append(_share("cost increase", increase, bounds.max_cost_increase, report["pairs"], bounds))
    if bounds.max_latency_increase is not None:
        latency = report["latency"]
        increase = _increase(Decimal(latency["base"] or 0), Decimal(latency["run"] or 0))
        found.append(_share("latency increase", increase, bounds.max_latency_increase, latency["pairs"], bounds))
    if bounds.max_regressions is not None:
        found.append(_regressions(report, bounds, bounds.max_regressions))
    return found


def _done(report: Mapping[str, Any]) -> Checked:
    state = report["run"]["state"]
    if report["run"].get("mirror"):
        # It has no end; one that failed may have left out what it failed at.
        failed = state == "failed"
        reason = "what it failed at is not compared; headrace replay mirror show says why" if failed else ""
        return Checked(name="mirror", bound="not failed", figure=state, passed=not failed, reason=reason)
    reason = "" if state == "done" else "what is missing may be the worst of it; headrace replay resume it"
    return Checked(name="run", bound="done", figure=state, passed=state == "done", reason=reason)


def _each(report: Mapping[str, Any], asked: Mapping[str, float], option: str) -> list[tuple[str, float]]:
    known = {one["name"]: one for one in report["scores"]}
    for name in asked:
        if name != ALL and known and name not in known:
            raise ConfigurationError(f"{option} {name}: there is no such score; {nearest(name, known)}")
    if ALL not in asked:
        return list(asked.items())
    rest = [name for name, one in known.items() if name not in asked and one["pairs"]]
    # Where nothing was scored the bound stands, and fails.
    named = [(name, one) for name, one in asked.items() if name != ALL]
    return [*named, *((name, asked[ALL]) for name in rest or [ALL])]


def _of(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next((one for one in report["scores"] if one["name"] == name), {"pairs": 0, "run": None, "difference": None})


def _score(report: Mapping[str, Any], name: str, least: float, bounds: Bounds) -> Checked:
    found = _of(report, name)
    value = found["run"]
    passed = value is not None and value >= least - ROUNDING
    return _checked(f"score {name}".strip(), f">= {least:g}", value, passed, found["pairs"], bounds)


def _drop(report: Mapping[str, Any], name: str, most: float, bounds: Bounds) -> Checked:
    found = _of(report, name)
    drop = None if found["difference"] is None else -found["difference"]
    passed = drop is not None and drop <= most + ROUNDING
    return _checked(f"drop of {name}".strip(), f"<= {most:g}", drop, passed, found["pairs"], bounds)


def _share(name: str, increase: float, most: float, pairs: int, bounds: Bounds) -> Checked:
    few = _few(pairs, bounds)
    figure = "from nothing" if math.isinf(increase) else f"{increase:+.2%}"
    return Checked(
        name=name, bound=f"<= {most:.4g} ({most:.2%})", figure=figure if pairs else None,
        passed=not few and increase <= most + ROUNDING, reason=few,
    )  # fmt: skip


def _regressions(report: Mapping[str, Any], bounds: Bounds, most: float) -> Checked:
    """Regressions, and requests that the run has no output for although there was one."""
    # An answer that was not drawn for scoring this time is not lost, nor is what a mirror had no budget for.
    sampled = report["what"] == "evaluations" or report["run"].get("mirror")
    lost = 0 if sampled else report["alone"]["base_only"]["count"]
    pairs = report["pairs"]
    count = report["regressions"]["count"] + lost
    compared = pairs + lost
    share = count / compared if compared else 0.0
    few = _few(pairs, bounds)
    figure = f"{count} of {compared} ({share:.2%})" + (f", {lost} without an output" if lost else "")
    bound = f"<= {most:.2%}" if bounds.regressions_share else f"<= {most:g}"
    passed = not few and (share if bounds.regressions_share else count) <= most
    return Checked(name="regressions", bound=bound, figure=figure, passed=passed, reason=few)


def _checked(name: str, bound: str, value: float | None, passed: bool, pairs: int, bounds: Bounds) -> Checked:
    few = _few(pairs, bounds)
    figure = None if value is None else f"{value:.4f} of {pairs} pairs"
    return Checked(name=name, bound=bound, figure=figure, passed=passed and not few, reason=few)


def _few(pairs: int, bounds: Bounds) -> str:
    least = max(1, bounds.min_pairs)
    return "" if pairs >= least else f"{pairs} pairs tell it, {least} are needed; see --min-pairs"


def _increase(base: Decimal, run: Decimal) -> float:
    return float((run - base) / base) if base else (math.inf if run > 0 else 0.0)


def passed(checks: Sequence[Checked]) -> bool:
    """Whether every bound holds."""
    return all(one.passed for one in checks)
