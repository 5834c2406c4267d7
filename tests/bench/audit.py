"""How long an audit takes on a topic of many records, at its worst: no time bounds it, so a partition is read whole.

``python -m tests.bench.audit [--records N]`` prints one JSON object: seconds and processor seconds with four
partitions, where a quarter of the keys is compared, and with one, where all are; and of the whole command.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.files import event_schemas
from schemas.registry import Registry
from streams.audit import Auditor
from streams.publish import Publisher
from streams.requests import parse_request
from streams.settings import Settings
from streams.topics import apply, compare, topic_name
from tests.support.commands import Commands
from tests.support.settings import settings_for
from tests.support.stack import TestStack

WANTED = "wanted"


def fill(settings: Settings, lane: str, records: int) -> None:
    """A topic with so many records of other keys, and the wanted one between them."""
    apply(settings, lane, compare(settings, lane, ["requests"]))
    options = {"partitioner": "murmur2_random", "linger.ms": 50, "queue.buffering.max.messages": 500_000}
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap, **options})
    for number in range(records):
        while True:
            try:
                producer.produce(topic_name("", lane, "requests"), key=f"other-{number}", value=b"x" * 200)
                break
            except BufferError:
                producer.poll(0.1)
        if number == records // 2:
            producer.flush(60)
            ask(settings, lane)
    assert producer.flush(120) == 0


def ask(settings: Settings, lane: str) -> None:
    codec = asyncio.run(Codec.connect(settings.registry.url))
    publisher = Publisher(settings, codec, lane=lane)
    request = parse_request(json.dumps({"query": "why?", "request_id": WANTED}), tenant="default", lane=lane)
    publisher.publish("requests", request, WANTED)
    assert publisher.flush() == []


def measure(settings: Settings, lane: str) -> dict[str, float]:
    started, worked = time.perf_counter(), time.process_time()
    found = Auditor(settings, lane=lane).audit(WANTED)
    assert len(found.events) == 1
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "processor_seconds": round(time.process_time() - worked, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1_000_000)
    records = parser.parse_args().records
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        Path(folder).chmod(0o755)
        stack = TestStack(Path(folder) / "stack")
        try:
            print(json.dumps(run(stack, records, Path(folder))))  # noqa: T201
        finally:
            stack.close()


def run(stack: TestStack, records: int, folder: Path) -> dict[str, Any]:
    asyncio.run(Registry(stack.registry_url).register(event_schemas()))
    result: dict[str, Any] = {"records": records}
    for partitions in (4, 1):
        settings = settings_for(stack, partitions=partitions)
        lane = f"bench{partitions}"
        fill(settings, lane, records)
        result[f"partitions_{partitions}"] = measure(settings, lane)
    commands = Commands(stack, "bench4", folder, ("requests",))
    argv = [sys.executable, "-m", "streams", "audit", WANTED, "--lane", "bench4", "--json"]
    started = time.perf_counter()
    subprocess.run(argv, env={**os.environ, **commands.environment}, check=True, capture_output=True)
    result["command_seconds"] = round(time.perf_counter() - started, 2)
    result["load_average"] = os.getloadavg()[0]
    return result


if __name__ == "__main__":
    main()
