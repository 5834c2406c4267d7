"""How mirrors look: lines, texts and JSON."""

from __future__ import annotations

from typing import Any

from streams.cli.costs_amounts import micro_amount
from streams.mirroring.figures import Figures
from streams.replay.run import Run
from streams.replay.work import Ended


def mirror_view(figures: Figures) -> dict[str, Any]:
    """A mirror as JSON."""
    run, day = figures.run, figures.day
    return {
        "run": run.run,
        "name": run.name,
        "lane": run.lane,
        "source_lane": run.source_lane,
        "state": run.state,
        "reason": run.reason,
        "stages": list(run.stages),
        "share": run.config.sample,
        "salt": run.config.salt,
        "where": run.config.where,
        "sets": dict(run.config.sets),
        "rate": run.config.rate,
        "workers": run.config.workers,
        "code_version": run.code_version,
        "seen": figures.seen,
        "mirrored": figures.mirrored,
        "over_budget": figures.over_budget,
        "gone": figures.gone,
        "outcomes": dict(figures.outcomes),
        "lag_events": figures.lag_events,
        "lag_seconds": figures.lag_s,
        "waits_for": figures.waits_for,
        "cost_usd": f"{figures.cost_usd:f}",
        "avoided_usd": f"{figures.avoided_usd:f}",
        "today": {
            "day": day.day.isoformat(),
            "spent_usd": f"{day.spent_usd:f}",
            "held_usd": f"{day.held_usd:f}",
            "limit_usd": None if figures.limit_usd is None else f"{figures.limit_usd:f}",
            "calls": day.calls,
        },
        "led_by": run.owner,
        **{
            name: moment.isoformat() if (moment := getattr(run, name)) else None
            for name in ("created_at", "started_at", "updated_at", "ended_at")
        },
    }


def mirror_line(figures: Figures) -> str:
    """A mirror on a line."""
    run = figures.run
    taken = f"{figures.mirrored:,} of {figures.seen:,}"
    if figures.over_budget:
        taken += f", {figures.over_budget:,} over budget"
    return f"{run.name}  {run.state}  {_what(run)}  {taken}, {_today(figures)}, {_behind(figures)}"


def mirror_text(figures: Figures) -> str:
    """A mirror on a page."""
    run, config = figures.run, figures.run.config
    lines = [f"{run.name} ({run.run}): {run.state}" + (f", {run.reason}" if run.reason else "")]
    lines.append(f"  {_what(run)} into the lane {run.lane}, by version {run.code_version}")
    lines += [f"  --set {name}={value}" for name, value in config.sets.items()]
    lines += [f"  --where {config.where}"] if config.where else []
    lines += [f"  --rate {config.rate:g}"] if config.rate else []
    lines.append(f"  seen {figures.seen:,}, mirrored {figures.mirrored:,}, {_behind(figures)}")
    lines += [f"  waits for live: {figures.waits_for}"] if figures.waits_for else []
    if figures.over_budget:
        lines.append(f"  passed over for the day's budget: {figures.over_budget:,}")
    if figures.gone:
        lines.append(f"  removed by retention before they were read: {figures.gone:,}")
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(figures.outcomes.items()))
    lines += [f"  {counts}"] if counts else []
    lines.append(
        f"  {_today(figures)}; {micro_amount(figures.cost_usd)} USD in all, avoided {micro_amount(figures.avoided_usd)}"
    )
    return "\n".join(lines) + "\n"


def started_text(run: Run, *, new: bool, host: str, port: int | None) -> str:
    """What begins, or goes on."""
    limit = run.config.max_cost_per_day_usd
    most = f", at most {micro_amount(limit)} USD a day" if limit is not None else ""
    served = f"; metrics on http://{host}:{port}/metrics" if port is not None else ""
    return f"mirror {run.name} {'begins' if new else 'goes on'}: {_what(run)} into the lane {run.lane}{most}{served}"


def ended_text(figures: Figures, ended: Ended) -> str:
    """How it ended, for now or for good."""
    return f"mirror {mirror_line(figures)}" + (f"; {ended.reason}" if ended.reason else "")


def _what(run: Run) -> str:
    return f"{'>'.join(run.stages)} of {run.config.sample:.4%} of {run.source_lane}".replace(".0000%", "%")


def _today(figures: Figures) -> str:
    of = "" if figures.limit_usd is None else f" of {micro_amount(figures.limit_usd)}"
    return f"{micro_amount(figures.day.spent_usd)}{of} USD today"


def _behind(figures: Figures) -> str:
    if figures.lag_events is None:
        return "how far behind is not known"
    age = "" if not figures.lag_s else f" ({figures.lag_s:.0f} s)"
    return f"{figures.lag_events:,} events behind{age}"
