"""Rates, latencies and spend by stage, from a minute of snapshots."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from streams.overview.rates import buckets_of, grown, quantile, summed
from streams.overview.reported import Worker
from streams.overview.snapshot import Snapshot
from streams.stages import STAGES

WINDOW_S = 60.0
QUANTILES = (("p50", 0.5), ("p95", 0.95))
# One life of one worker.
Life = tuple[str, tuple[str, ...], datetime]


class Trend:
    """Takes snapshots in, and tells what happened in the last minute of them. Memory: the snapshots of that minute."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seen: deque[Snapshot] = deque()

    def add(self, snapshot: Snapshot) -> None:
        """The next snapshot. One that could not ask everything is no start of a window."""
        self._seen.append(snapshot)
        while len(self._seen) > 2 and (snapshot.at - self._seen[1].at).total_seconds() >= self._window_s:
            self._seen.popleft()

    @property
    def latest(self) -> Snapshot:
        """The snapshot that was added last."""
        return self._seen[-1]

    def view(self, lane: str) -> dict[str, Any]:
        """The latest snapshot with its rates, as JSON."""
        now, first = self._seen[-1], self._first()
        seconds = (now.at - first.at).total_seconds()
        return {
            "at": now.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "lane": lane,
            "window_s": round(seconds, 1),
            "faults": dict(now.faults),
            "dead_letters": {"total": now.letters, "open_at_most": now.open_letters},
            "stages": [self._stage(name, now, first, seconds) for name in STAGES],
            "workers": [worker.view() for worker in now.workers],
        }

    def _first(self) -> Snapshot:
        """The earliest one that saw the broker, else the latest of all."""
        whole = (snapshot for snapshot in self._seen if "kafka" not in snapshot.faults)
        return next(whole, self._seen[-1])

    def _stage(self, name: str, now: Snapshot, first: Snapshot, seconds: float) -> dict[str, Any]:
        running = now.running(name)
        ages = [age for worker in running if (age := worker.figures(name).get("oldest_age_s")) is not None]
        letters = sum(sum(worker.figures(name).get("dead_letters", {}).values()) for worker in running)
        view: dict[str, Any] = {
            "stage": name,
            "workers": len(running),
            "lag_events": now.events(name),
            "lag_age_s": _rounded(now.age_s(name), 3),
            "in_per_s": _rate(now, first, name, "written", seconds),
            "done_per_s": _rate(now, first, name, "done", seconds),
            "in_flight": sum(int(worker.figures(name).get("in_flight", 0)) for worker in running),
            "oldest_unacked_s": _rounded(max(ages, default=None), 3),
            "wait_ms": self._latency(name, "wait", now, first),
            "service_ms": self._latency(name, "service", now, first),
            "dead_letters": int(letters),
            "paused": any(name in worker.report.get("paused", ()) for worker in running),
        }
        if any("cost_usd" in worker.figures(name) for worker in running):
            view |= self._spend(name, now, first)
        return view

    def _latency(self, stage: str, what: str, now: Snapshot, first: Snapshot) -> dict[str, Any]:
        """Percentiles of what was counted in the window; of all since the workers' start where that was nothing."""
        before = {_life(worker): worker for worker in first.workers}
        totals, grew = [], []
        for worker in now.running(stage):
            counted = buckets_of(worker.figures(stage).get(what, {}))
            totals.append(counted)
            earlier = before.get(_life(worker))
            known = buckets_of(earlier.figures(stage).get(what, {})) if earlier else {}
            grew.append(grown(counted, known))
        recent = summed(grew)
        # A worker that started within the window has nothing before it.
        fresh = bool(recent) and max(recent.values()) > 0
        buckets = recent if fresh else summed(totals)
        found = {name: quantile(buckets, share) for name, share in QUANTILES}
        events = int(max(buckets.values(), default=0))
        milliseconds = {name: _rounded(None if value is None else value * 1000, 3) for name, value in found.items()}
        return {**milliseconds, "events": events, "recent": fresh}

    def _spend(self, stage: str, now: Snapshot, first: Snapshot) -> dict[str, Any]:
        running = now.running(stage)
        before = {_life(worker): worker.figures(stage) for worker in first.workers}
        cost = {str(_life(worker)): float(worker.figures(stage).get("cost_usd", 0)) for worker in running}
        known = {str(life): float(figures.get("cost_usd", 0)) for life, figures in before.items()}
        return {
            "cost_usd": round(sum(cost.values()), 12),
            "cost_usd_in_window": round(sum(grown(cost, known).values()), 12),
            "calls": _whole(summed([worker.figures(stage).get("calls", {}) for worker in running])),
            "tokens": _whole(summed([worker.figures(stage).get("tokens", {}) for worker in running])),
        }


def _rate(now: Snapshot, first: Snapshot, stage: str, what: str, seconds: float) -> float | None:
    """Events a second by the broker's offsets, over the inputs that both snapshots saw."""
    if seconds <= 0 or not now.of(stage):
        return None
    before = {one.group: int(getattr(one, what)) for one in first.of(stage)}
    # Offsets go back where a topic was made again or a group was set back: that is no rate.
    grew = [max(0, int(getattr(one, what)) - before[one.group]) for one in now.of(stage) if one.group in before]
    return round(sum(grew) / seconds, 2)


def _life(worker: Worker) -> Life:
    return worker.slot, worker.stages, worker.started_at


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _whole(counts: Mapping[str, float]) -> dict[str, int]:
    return {name: int(count) for name, count in counts.items()}
