"""Many requests open at a slow model: 500 in flight at 2 s, on one and on two workers of ``complete``.

``make bench ARGS="concurrency [--seconds 300] [--in-flight 500] [--workers 1,2]"``: the rate, and the memory of each
worker from the end of the warm-up to the end of the run.
"""

from __future__ import annotations

import argparse
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bench.flow import Ask, flowing
from tests.bench.machine import (
    Meter,
    confine,
    described,
    fresh_stack,
    percentile,
    resident_mb,
    sampled,
    show,
    table,
    tell,
)
from tests.support.stack import TestStack

LATENCY_MS = 2_000.0
QUESTION = "How does the with statement work in Python, and when should it be used?"
HEADS = (
    *("complete workers", "in flight", "requests/s", "added p50, ms", "added p99, ms", "requests", "lost"),
    *("CPU ms a request", "memory of a worker: start, end, most, MB"),
)
WORKERS = ("flow", "complete")


class Memory:
    """Resident memory of processes over time, sampled in a thread."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = dict(processes)
        self._samples: list[tuple[float, dict[str, float]]] = []

    def told(self, after_s: float) -> str:
        """Start, end and most of each process since then."""
        parts = []
        began = self._samples[0][0]
        late = [values for at, values in self._samples if at - began >= after_s] or [self._samples[-1][1]]
        for name in self._processes:
            values = [one[name] for one in late]
            parts.append(f"{name} {values[0]:.0f}, {values[-1]:.0f}, {max(values):.0f}")
        return "; ".join(parts)

    def take(self) -> None:
        """One sample."""
        sample = {name: resident_mb(pid) for name, pid in self._processes.items()}
        self._samples.append((time.monotonic(), sample))


def run(stack: TestStack, folder: Path, *, workers: int, in_flight: int, seconds: float) -> tuple[object, ...]:
    """One line of the table."""
    lane = f"c{secrets.token_hex(3)}"
    with flowing(stack, folder / lane, lane, latency_ms=LATENCY_MS, complete_workers=workers, partitions=8) as running:
        tell(f"{in_flight} in flight on {workers} workers for {seconds:g} s")
        meter = Meter({**running.processes, "client": os.getpid()})
        memory = Memory({name: pid for name, pid in running.processes.items() if name.startswith(WORKERS)})
        with sampled(memory.take):
            found = running.flow.closed("slow", Ask(lambda _: QUESTION), in_flight=in_flight, seconds=seconds)
        used = meter.ms_per(found.sent)
    warm_s = min(30.0, max(2 * LATENCY_MS / 1000, seconds / 4))
    latencies = found.within(warm_s, seconds)
    added = [one - LATENCY_MS for one in latencies]
    rate = len(latencies) / (seconds - warm_s)
    cpu = ", ".join(f"{name} {ms:.1f}" for name, ms in used.items())
    return (workers, in_flight, rate, percentile(added, 0.5), percentile(added, 0.99), found.sent, found.lost, cpu,
            memory.told(warm_s))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="concurrency", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--in-flight", type=int, default=500)
    parser.add_argument("--workers", default="1,2")
    options = parser.parse_args()
    confine()
    with fresh_stack() as (folder, stack):
        lines = [
            run(stack, folder, workers=int(count), in_flight=options.in_flight, seconds=options.seconds)
            for count in options.workers.split(",")
        ]
        about = described(stack)
    show(table(HEADS, lines), about)


if __name__ == "__main__":
    main()
