"""Live requests alone, beside a replay that pays, and beside a replay that does not, in one run.

``make bench ARGS="live-replay [--seconds 30] [--in-flight 8] [--limit 32]"``: how long live answers take, and what the
provider saw. It takes ``--limit`` calls at a time and refuses one more; the replay that pays would fill all of them by
itself. The one that does not is of ``filter``, at full speed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from streams.topics import apply, compare
from tests.bench.flow import Ask, Running, flowing
from tests.bench.machine import confine, described, fresh_stack, percentile, show, table, tell
from tests.faults.pipeline import Scene
from tests.support.replaying import completion, record
from tests.support.stack import TestStack

LATENCY_MS = 200.0
RECORDED = 30_000
# For a command to begin, on a busy machine.
UNDER_WAY_S = 120.0
QUESTION = "How does the with statement work in Python, and when should it be used?"
HEADS = (
    *("live beside", "live answers/s", "p50, ms", "p95, ms", "p99, ms", "lost", "calls open at once: all, live"),
    *("refused", "replayed/s"),
)


class Replays:
    """A command, begun again as soon as it ends, until it is stopped; ``{number}`` in its options counts up."""

    def __init__(self, place: Scene, *options: str) -> None:
        self._command = [sys.executable, "-m", "streams", "replay", "--since", "1h", "--json", *options]
        self._environment = {**os.environ, **place.env}
        self._folder = place.folder
        self._over = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self.errors: list[str] = []

    def run(self) -> None:
        """Begin it again and again."""
        for number in itertools.count():
            if self._over.is_set():
                return
            self._process = subprocess.Popen(
                [option.format(number=number) for option in self._command],
                env=self._environment,
                cwd=self._folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            _, err = self._process.communicate()
            if self._process.returncode != 0 and not self._over.is_set():
                self.errors.append(err[-2_000:])
                return

    def stop(self) -> None:
        """End the one that runs, in order."""
        self._over.set()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)


@contextmanager
def beside(place: Scene, options: Sequence[str]) -> Iterator[None]:
    """A replay all the time, from when it is under way, or none without options."""
    if not options:
        yield
        return
    replays = Replays(place, *options)
    thread = threading.Thread(target=replays.run, daemon=True)
    thread.start()
    ends = time.monotonic() + UNDER_WAY_S
    while not replays.errors and not _asked(place, "SELECT count(*) FROM replay_runs WHERE state = 'running'"):
        assert time.monotonic() < ends, "the replay does not begin"
        time.sleep(0.2)
    try:
        yield
    finally:
        replays.stop()
        thread.join(60)
    assert not replays.errors, replays.errors[0]


def phase(running: Running, name: str, options: Sequence[str], *, in_flight: int, seconds: float) -> tuple[Any, ...]:
    """One line of the table."""
    flow, place = running.flow, running.flow.place
    tell(f"live beside {name}, {seconds:g} s")
    with beside(place, options):
        seen, before = len(place.provider.calls()), _replayed(place)
        found = flow.closed(f"l{secrets.token_hex(3)}", Ask(lambda _: QUESTION), in_flight=in_flight, seconds=seconds)
    warm_s = min(5.0, seconds / 4)
    latencies = found.within(warm_s, seconds)
    most, live, refused = _at_provider(place.provider.calls()[seen:], set(found.latencies_ms))
    values = [percentile(latencies, share) for share in (0.5, 0.95, 0.99)]
    rate, replayed = len(latencies) / (seconds - warm_s), (_replayed(place) - before) / seconds
    return (name, rate, *values, found.lost, f"{most}, {live}", refused, replayed)


def _at_provider(lines: Sequence[dict[str, Any]], own: set[str]) -> tuple[int, int, int]:
    """Most calls open at a time, of all and of these requests; and how many were refused."""
    open_: dict[int, bool] = {}
    most = live = refused = 0
    for line in lines:
        if line["event"] == "end":
            open_.pop(line["call"], None)
            continue
        open_[line["call"]] = line["request_id"] in own
        refused += line["fault"] == "429"
        most, live = max(most, len(open_)), max(live, sum(open_.values()))
    return most, live, refused


def _replayed(place: Scene) -> int:
    """Events that replays are done with, by their rows."""
    return _asked(place, "SELECT coalesce(sum(next_offset - first_offset), 0) FROM replay_places")


def _asked(place: Scene, statement: LiteralString) -> int:
    with psycopg.connect(place.dsn) as connection:
        return int(connection.execute(statement).fetchall()[0][0])


def run(stack: TestStack, folder: Path, *, in_flight: int, limit: int, seconds: float) -> list[tuple[Any, ...]]:
    """The lines of the table."""
    lane = f"l{secrets.token_hex(3)}"
    deployment = {"max_concurrency": limit, "total_timeout_s": 60.0, "first_token_timeout_s": 50.0}
    options = {"provider": ("--limit", str(limit)), "deployments": {"fake": deployment}}
    with flowing(stack, folder / lane, lane, latency_ms=LATENCY_MS, partitions=8, **options) as running:
        place, other = running.flow.place, f"{lane}p"
        apply(place.settings, other, compare(place.settings, other, ("completions", "answers", "control")))
        tell(f"recording {RECORDED:,} completions")
        record(place.settings, place.codec, other, (completion(number, other) for number in range(RECORDED)))
        pays = ("--stage", "complete", "--lane", lane, "--workers", str(limit), "--max-cost", "1000")
        pure = ("--stage", "filter", "--lane", other)
        phases: list[tuple[str, Sequence[str]]] = [
            ("nothing", ()),
            # Another temperature each time: what was asked before is not asked again, so every call is a new one.
            ("a replay that pays", (*pays, "--set", "temperature=0.7{number}")),
            ("a replay of filter", pure),
            ("nothing again", ()),
        ]
        return [phase(running, name, asked, in_flight=in_flight, seconds=seconds) for name, asked in phases]


def main() -> None:
    parser = argparse.ArgumentParser(prog="live-replay", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--limit", type=int, default=32)
    options = parser.parse_args()
    confine()
    with fresh_stack() as (folder, stack):
        lines = run(stack, folder, in_flight=options.in_flight, limit=options.limit, seconds=options.seconds)
        about = described(stack)
    ratios = [f"{line[0]}: p50 {line[2] / lines[0][2]:.2f}, p95 {line[3] / lines[0][3]:.2f}" for line in lines[1:]]
    show(table(HEADS, lines), f"Times of live answers against live alone: {'; '.join(ratios)}.", about)


if __name__ == "__main__":
    main()
