"""Throughput with few and with many requests waiting: how a backlog slows the stream down.

``make bench ARGS="backlog [--seconds 60] [--waiting 1000,200000]"``. The backlog is on the topic before the workers
start, and every answer takes the place of a new request: so many wait all the time. Counted are answers by the
broker's own offsets, in a window after a warm-up.
"""

from __future__ import annotations

import argparse
import secrets
import time
from pathlib import Path

from tests.bench.flow import Ask, Flow, flowing
from tests.bench.machine import Meter, confine, described, fresh_stack, show, table, tell
from tests.support.stack import TestStack

LATENCY_MS = 200.0
QUESTION = "How does the with statement work in Python, and when should it be used?"
HEADS = ("waiting", "answers/s", "admitted/s", "all, s", "CPU ms an answer")
FIRST_S = 120.0


def run(stack: TestStack, folder: Path, waiting: int, seconds: float) -> tuple[int, float, float, float, str]:
    """One line of the table."""
    lane, ask = f"w{secrets.token_hex(3)}", Ask(lambda _: QUESTION)

    def fill(flow: Flow) -> None:
        tell(f"publishing {waiting:,} requests")
        flow.fill("first", ask, waiting)

    with flowing(stack, folder / lane, lane, latency_ms=LATENCY_MS, before=fill, partitions=8) as running:
        flow = running.flow
        _first_answer(flow)
        _keep(flow, ask, waiting, seconds / 4)
        tell(f"measuring with {waiting:,} waiting")
        before, admitted = flow.count("answers"), flow.count("admitted")
        meter, began = Meter(running.processes), _now()
        _keep(flow, ask, waiting, seconds)
        took, answers = _now() - began, flow.count("answers") - before
        used = ", ".join(f"{name} {ms:.1f}" for name, ms in meter.ms_per(answers).items())
        return waiting, answers / took, (flow.count("admitted") - admitted) / took, took, used


def _first_answer(flow: Flow) -> None:
    ends = _now() + FIRST_S
    while not flow.count("answers"):
        assert _now() < ends, "nothing was answered"
        time.sleep(0.1)


def _keep(flow: Flow, ask: Ask, waiting: int, seconds: float) -> None:
    """Put a new request in for every answer."""
    ends = _now() + seconds
    while _now() < ends:
        missing = waiting - (flow.count("requests") - flow.count("answers"))
        if missing > 0:
            flow.fill(f"more{secrets.token_hex(4)}", ask, missing)
        time.sleep(0.2)


def _now() -> float:
    return time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(prog="backlog", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--waiting", default="1000,200000")
    options = parser.parse_args()
    confine()
    with fresh_stack() as (folder, stack):
        counts = [int(count) for count in options.waiting.split(",")]
        lines = [run(stack, folder, count, options.seconds) for count in counts]
        about = described(stack)
    ratio = f"{counts[-1]:,} waiting against {counts[0]:,}: {lines[-1][1] / lines[0][1]:.2f}."
    show(table(HEADS, lines), ratio, about)


if __name__ == "__main__":
    main()
