"""How fast a partition's records are sealed, and compared with their seals.

``python -m tests.bench.seal [--records N]`` prints one JSON object: records of 1 KB per second, read from the broker,
hashed, and written to Postgres or compared with it; and the most memory that was used.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from streams.auditing.sealed_lane import check_lane
from streams.auditing.sealing import Interval, Sealer
from streams.auditing.seals_pg import PostgresSeals
from streams.auditing.seen import Seen
from streams.settings import Settings
from streams.topics import apply, compare, topic_name
from tests.support.settings import settings_for
from tests.support.stack import TestStack

LANE = "bench"


def fill(settings: Settings, records: int) -> None:
    apply(settings, LANE, compare(settings, LANE, ["answers"]))
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap, "linger.ms": 50})
    topic, value = topic_name("", LANE, "answers"), os.urandom(1_000)
    for number in range(records):
        while True:
            try:
                producer.produce(topic, key=str(number), value=value, headers=[("ce_id", "x")])
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0


def memory_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def run(stack: TestStack, records: int, folder: Path) -> dict[str, Any]:
    settings = settings_for(stack, partitions=4)
    fill(settings, records)
    before = memory_mb()
    with PostgresSeals(stack.postgres_dsn) as seals:
        sealer = Sealer(settings, seals, lane=LANE, interval=Interval(), streams=False, note=lambda _: None)
        started = time.perf_counter()
        sealed, made = sealer.once()
        sealing = time.perf_counter() - started
    assert sealed == records
    started = time.perf_counter()
    since = datetime.now(UTC) - timedelta(days=1)
    with Seen(folder / "seen.sqlite") as seen:
        counts = check_lane(
            settings, seen, lane=LANE, since=since, until=None, exported=None, advance=lambda _what, _count: None
        )
        assert not seen.counts()
    assert counts.records == records
    return {
        "records": records,
        "seals": made,
        "sealed_per_second": round(records / sealing),
        "compared_per_second": round(records / (time.perf_counter() - started)),
        "memory_grown_mb": memory_mb() - before,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=200_000)
    records = parser.parse_args().records
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        Path(folder).chmod(0o755)
        stack = TestStack(Path(folder) / "stack")
        try:
            print(json.dumps(run(stack, records, Path(folder))))  # noqa: T201
        finally:
            stack.close()


if __name__ == "__main__":
    main()
