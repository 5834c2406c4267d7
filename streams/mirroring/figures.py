"""How a mirror stands: what it saw, took and passed over, what it spent, and how far it is behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streams.mirroring.days import Day
from streams.replay.run import BURIED, GONE, OVER_BUDGET, PUBLISHED, REFUSED, Progress, Run

# What became of an event that the mirror took on.
TAKEN = (PUBLISHED, REFUSED, BURIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of a mirror; sums are since its start, amounts in US dollars.

    ``seen``: events that it read; ``mirrored``: put through its first stage; ``over_budget``: of its share, passed over
    because the day's budget had no room; ``gone``: removed by retention before they were read. ``lag_events`` of the
    source lane are still to be read, the first of them appended ``lag_s`` ago; ``None`` where the broker did not say.
    """

    run: Run
    seen: int
    mirrored: int
    over_budget: int
    gone: int
    outcomes: Mapping[str, int]
    cost_usd: Decimal
    avoided_usd: Decimal
    day: Day
    lag_events: int | None = None
    lag_s: float | None = None
    # What holds it back now, where live goes first; in words.
    waits_for: str = ""

    @property
    def limit_usd(self) -> Decimal | None:
        """What it may spend in a day."""
        return self.run.config.max_cost_per_day_usd


def figures_of(
    run: Run, progress: Progress, day: Day, *, behind: tuple[int, datetime | None] | None = None, now: datetime
) -> Figures:
    """Sum up a mirror's progress. ``behind``: events that it has to read, and when the first of them was appended."""
    counts = progress.counts(0)
    lag_events, oldest_at = behind or (None, None)
    lag_s = 0.0 if lag_events == 0 else None
    if oldest_at is not None:
        lag_s = max(0.0, (now - oldest_at).total_seconds())
    return Figures(
        run=run,
        seen=sum(counts.values()) - counts[GONE],
        mirrored=sum(counts[name] for name in TAKEN),
        over_budget=counts[OVER_BUDGET],
        gone=counts[GONE],
        outcomes=Counter(counts),
        cost_usd=progress.cost_usd,
        avoided_usd=progress.avoided_usd,
        day=day,
        lag_events=lag_events,
        lag_s=lag_s,
    )


class MirrorMetrics(Collector):
    """The metrics of the mirror that a process leads. What is kept in the database goes on over restarts."""

    def __init__(self) -> None:
        self.figures: Figures | None = None

    def collect(self) -> Iterable[Metric]:
        """The families, by the latest figures; none before the first."""
        found = self.figures
        if found is None:
            return
        name = [found.run.name]
        events = CounterMetricFamily(
            "headrace_mirror_events", "Events that a mirror read, by what came of them", labels=["mirror", "outcome"]
        )
        for outcome, count in sorted(found.outcomes.items()):
            events.add_metric([*name, outcome], count)
        yield events
        cost = CounterMetricFamily("headrace_mirror_cost_usd", "What a mirror spent", labels=["mirror"])
        cost.add_metric(name, float(found.cost_usd))
        yield cost
        for metric, said, value in (
            ("lag_events", "Events of the source lane that a mirror has yet to read", found.lag_events),
            ("lag_seconds", "Age of the first of these", found.lag_s),
            ("today_spent_usd", "What a mirror spent of today's budget", found.day.spent_usd),
            ("today_held_usd", "The most that a mirror's open calls can cost", found.day.held_usd),
            ("day_limit_usd", "What a mirror may spend in a day", found.limit_usd),
        ):
            if value is not None:
                gauge = GaugeMetricFamily(f"headrace_mirror_{metric}", said, labels=["mirror"])
                gauge.add_metric(name, float(value))
                yield gauge
