"""How fast runs are replayed: filter and account over many events, the time to the first, and a dry run.

``python -m tests.bench.replay [--events N]`` prints one JSON object. Broker, registry and Postgres share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from streams.reading import TopicReader
from streams.replay.desk import Desk
from streams.replay.run import RunConfig
from streams.topics import topic_name
from tests.support.commands import Commands
from tests.support.costs import cost
from tests.support.replaying import completion, record
from tests.support.stack import TestStack

KINDS = ("completions", "answers", "costs", "control", "chunks", "dead-letters")


def run(commands: Commands, stage: str, kind: str, *options: str) -> dict[str, Any]:
    """Replay a stage over all that is there, as a command."""
    began, spent = time.perf_counter(), _processor_s()
    first: list[float] = []
    name = f"{commands.lane}-{stage}"
    if kind:
        threading.Thread(target=_watch, args=(commands, name, kind, first), daemon=True).start()
    ran = commands.run(
        "replay", "--stage", stage, "--since", "1h", "--lane", commands.lane, "--name", name, "--json", *options
    )
    took = time.perf_counter() - began
    assert ran.code == 0, ran.err
    found = ran.objects[0]
    events = sum(found["counts"].values())
    out = {"events": events, "per_second": round(events / took), "seconds": round(took, 2)}
    out |= {"processor_us_an_event": round((_processor_s() - spent) / events * 1e6)}
    out |= {"first_event_s": round(first[0] - began, 2)} if first else {}
    return out | {"memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def _processor_s() -> float:
    """Seconds of processor time of this process and those it has waited for; not of broker and Postgres."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def dry_run(commands: Commands, stage: str) -> dict[str, Any]:
    """A dry run over all that is there."""
    began = time.perf_counter()
    ran = commands.run("replay", "--stage", stage, "--since", "1h", "--lane", commands.lane, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    return {"events": ran.objects[0]["events"], "seconds": round(time.perf_counter() - began, 2)}


def seek(commands: Commands) -> float:
    """Seconds to find the offsets of a range by time."""

    async def plan() -> float:
        async with Desk.open(commands.settings) as desk:
            began = time.perf_counter()
            await desk.plan("filter", RunConfig(ids=("r1",)), lane=commands.lane)
            return time.perf_counter() - began

    return round(asyncio.run(plan()), 3)


def _watch(commands: Commands, name: str, kind: str, first: list[float]) -> None:
    """Note when the first output is in the run's lane."""
    with TopicReader(commands.settings) as reader:
        while not first:
            lanes = [one.lane for one in asyncio.run(_runs(commands)) if one.name == name]
            topics = [topic_name(commands.settings.prefix, lane, kind) for lane in lanes]
            if topics and reader.existing(topics):
                ends = reader.ends(reader.places(topics))
                if any(stretch.end for stretch in ends.values()):
                    first.append(time.perf_counter())
            time.sleep(0.05)


async def _runs(commands: Commands) -> Any:
    async with Desk.open(commands.settings) as desk:
        return await desk.runs.all()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    events = parser.parse_args().events
    with tempfile.TemporaryDirectory(prefix="hr-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        stack = TestStack(folder / "stack")
        try:
            commands = Commands(stack, "bench", folder, KINDS)
            record(commands.settings, commands.codec, "bench", (completion(n, "bench") for n in range(events)))
            costs = (cost(f"bench-{n}", lane="bench", request_id=f"bench-r{n}") for n in range(events))
            record(commands.settings, commands.codec, "bench", costs)
            found = {
                "seek_s": seek(commands),
                "dry_run": dry_run(commands, "filter"),
                "filter": run(commands, "filter", "answers"),
                "account": run(commands, "account", ""),
            }
        finally:
            stack.close()
    print(json.dumps({"replay": found, "load_average": os.getloadavg()[0]}))  # noqa: T201


if __name__ == "__main__":
    main()
