"""How fast runs are replayed: events a second by stage and processes, the time to the first event, memory, a dry run.

``make bench ARGS="replay [--events 1000000] [--small 100000]"``. Every run is the command itself, in a process of its
own, on the same two cores as broker and Postgres. The events are small completions and costs as the stages write them
(about 3 KB with three passages, and 0.3 KB), put on the topics by a producer that encoded them once. Rates are from the
first replayed event to the last by the broker's and the database's clock; ``with start`` counts the process from its
start to its end. The time to the first event is from the start of the process until the broker has it.
"""

from __future__ import annotations

import argparse
import json
import resource
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from streams.reading import Stretch, TopicReader
from streams.topics import topic_name
from tests.bench.machine import Meter, confine, described, fresh_stack, sampled, show, table, tell, tree_mb
from tests.bench.replay_events import completions, costs, fill
from tests.support.commands import Commands
from tests.support.stack import TestStack

KINDS = ("completions", "answers", "costs", "control", "chunks", "dead-letters")
# What an event takes on disk, read and written, with room to spare.
BYTES_AN_EVENT = 10_000
HEADS = (
    "run", "events", "processes", "events/s", "with start", "first event, s", "CPU µs an event", "broker", "Postgres",
    "MB, first quarter", "MB, last quarter", "MB, most",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ran:
    """One run. Times in seconds; ``memory`` in MB, a sample a second over all of its processes."""

    stage: str
    events: int
    workers: int
    seconds: float
    first_s: float
    between_s: float
    cpu_us: float
    broker_us: float
    postgres_us: float
    memory: tuple[float, ...]

    def row(self, name: str) -> tuple[object, ...]:
        """Its line of the table."""
        steady = self.memory[int(self.first_s) + 1 :] or self.memory
        quarter = max(1, len(steady) // 4)
        first, last = steady[:quarter], steady[-quarter:]
        return (
            name,
            self.events,
            self.workers,
            round(self.events / self.between_s),
            round(self.events / self.seconds),
            self.first_s,
            round(self.cpu_us),
            round(self.broker_us),
            round(self.postgres_us),
            round(sum(first) / len(first)),
            round(sum(last) / len(last)),
            round(max(self.memory)),
        )


class Bench:
    """Runs the command against a stack."""

    def __init__(self, stack: TestStack, commands: Commands) -> None:
        self._stack, self._commands = stack, commands

    def run(self, lane: str, stage: str, workers: int, *options: str) -> Ran:
        """Replay a stage over a lane, as a command in a process of its own."""
        roots = {"broker": self._stack.pid("kafka"), "postgres": self._stack.pid("postgres")}
        meter, spent = Meter(roots), _children_s()
        began, at = time.perf_counter(), time.time()
        process = self._start("--stage", stage, "--lane", lane, "--workers", str(workers), *options)
        memory: list[float] = []
        with sampled(lambda: memory.append(tree_mb(process.pid))):
            out, err = process.communicate()
        seconds = time.perf_counter() - began
        assert process.returncode == 0, err.decode()[-2000:]
        found = json.loads(out)
        events = sum(found["counts"].values())
        first, last = self._booked(found["lane"]) if stage == "account" else self._answered(found["lane"])
        others = meter.ms_per(events)
        ran = Ran(
            stage=stage,
            events=events,
            workers=workers,
            seconds=seconds,
            first_s=first - at,
            between_s=max(last - first, 1e-3),
            cpu_us=(_children_s() - spent) / events * 1e6,
            broker_us=others["broker"] * 1000,
            postgres_us=others["postgres"] * 1000,
            memory=tuple(memory),
        )
        tell(f"{stage} with {workers}: {events:,} events, {events / ran.between_s:,.0f} a second")
        return ran

    def dry_run(self, lane: str) -> tuple[int, float]:
        """Events of a dry run of filter over a lane, and seconds."""
        began = time.perf_counter()
        out, err = self._start("--stage", "filter", "--lane", lane, "--since", "1d", "--dry-run").communicate()
        assert out, err.decode()[-2000:]
        return json.loads(out)["events"], time.perf_counter() - began

    def late(self, lane: str, events: int) -> datetime:
        """A moment behind which a lane has about so many completions."""
        with TopicReader(self._commands.settings) as reader:
            ends = reader.ends(reader.places([topic_name("", lane, "completions")]))
            (place, stretch), count = next(iter(ends.items())), len(ends)
            start = max(stretch.start, stretch.end - events // count)
            return next(entry.time for entry in reader.read({place: Stretch(start, start + 1)}))

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "streams", "replay", *options, "--json"]
        argv += [] if "--dry-run" in options else ["--name", f"bench-{secrets.token_hex(4)}"]
        environment = self._commands.environment
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)

    def _answered(self, lane: str) -> tuple[float, float]:
        """When the broker got the first and the last answer of a run."""
        times = []
        with TopicReader(self._commands.settings) as reader:
            for place, stretch in reader.ends(reader.places([topic_name("", lane, "answers")])).items():
                for offset in {stretch.start, stretch.end - 1} if stretch.start < stretch.end else ():
                    [entry] = reader.read({place: Stretch(offset, offset + 1)})
                    times.append(entry.time.timestamp())
        return min(times), max(times)

    def _booked(self, lane: str) -> tuple[float, float]:
        """When the database got the first and the last row of a run."""
        with psycopg.connect(self._stack.postgres_dsn) as connection:
            statement = "SELECT min(recorded_at), max(recorded_at) FROM ledger WHERE lane = %s"
            [(first, last)] = connection.execute(statement, (lane,)).fetchall()
        return first.timestamp(), last.timestamp()


def _children_s() -> float:
    """Processor seconds of the processes that were waited for, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(stack: TestStack, folder: Path, events: int, small: int) -> list[str]:
    """Fill the topics, do every run; blocks of Markdown."""
    lanes = {"small": small, "large": events} if events > small else {"small": small}
    commands = {lane: Commands(stack, lane, folder, KINDS) for lane in lanes}
    bench, took = Bench(stack, commands["small"]), {}
    for lane, count in lanes.items():
        tell(f"filling {lane} with {count:,} completions")
        one, began = commands[lane], time.perf_counter()
        fill(one.settings, topic_name("", lane, "completions"), one.codec, completions(lane), count)
        took[lane] = time.perf_counter() - began
    one = commands["small"]
    fill(one.settings, topic_name("", "small", "costs"), one.codec, costs("small"), small)
    dry_events, dry_s = bench.dry_run("small")
    everything, largest = ("--since", "1d"), list(lanes)[-1]
    late = bench.late(largest, small // 10).astimezone(UTC).isoformat()
    plan: Sequence[tuple[str, str, str, int, tuple[str, ...]]] = (
        ("filter", "small", "filter", 1, everything),
        ("filter, all", largest, "filter", 2, everything),
        ("filter, the last by time", largest, "filter", 1, ("--since", late)),
        ("account", "small", "account", 1, everything),
        ("account", "small", "account", 2, everything),
    )
    rows = [bench.run(lane, stage, workers, *options).row(name) for name, lane, stage, workers, options in plan]
    return [
        table(HEADS, rows),
        f"Dry run of `filter` over {dry_events:,} events: {dry_s:.1f} s. Filled with {lanes[largest]:,} completions in "
        f"{took[largest]:.0f} s.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="replay", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="of the large topic")
    parser.add_argument("--small", type=int, default=100_000, help="of the other one, and cost events")
    options: Any = parser.parse_args()
    confine()
    with fresh_stack() as (folder, stack):
        needed = (options.events + options.small) * BYTES_AN_EVENT
        if shutil.disk_usage(folder).free < needed:
            parser.error(f"{folder.parent} has too little room: {needed / 1e9:.0f} GB are needed, or fewer --events")
        blocks = measured(stack, folder, options.events, options.small)
        about = described(stack)
    show(*blocks, about)


if __name__ == "__main__":
    main()
