"""How fast the books are kept: rows a second into Postgres in batches, and cost events a second through the stage.

``python -m tests.bench.account [--events N]`` prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from processors.account.postgres import PostgresLedger
from processors.postgres import Database
from schemas.codec import Codec
from schemas.files import event_schemas
from schemas.registry import Registry
from streams.costs import Selection, look_up
from streams.topics import apply, compare
from tests.faults.worker import WorkerProcess
from tests.support.costs import cost, entry
from tests.support.settings import settings_for
from tests.support.stack import TestStack

TIMEOUT_S = 300.0


async def rows(stack: TestStack, events: int, batch: int) -> dict[str, float]:
    """Rows a second straight into the table, and the same events once more."""
    lane = f"rows{batch}"
    entries = [entry(cost(f"{lane}-{number}", lane=lane)) for number in range(events)]
    database = await Database.open(stack.postgres_dsn)
    found = {}
    try:
        for name in ("new", "repeated"):
            began = time.perf_counter()
            for start in range(0, events, batch):
                assert set(await PostgresLedger(database).record(entries[start : start + batch])) == {name}
            found[name] = round(events / (time.perf_counter() - began))
    finally:
        await database.close()
    return found


def stage(stack: TestStack, events: int, folder: Path) -> dict[str, Any]:
    """Cost events a second through a worker, from its first row to its last."""
    lane, settings = "stage", settings_for(stack)
    asyncio.run(Registry(stack.registry_url).register(event_schemas()))
    apply(settings, lane, compare(settings, lane))
    codec = asyncio.run(Codec.connect(stack.registry_url))
    producer = Producer({"bootstrap.servers": stack.kafka_bootstrap, "queue.buffering.max.messages": events + 1})
    for number in range(events):
        value = codec.encode(cost(f"{lane}-{number}", lane=lane, request_id=f"r{number}"))
        producer.produce(f"{lane}.costs", key=f"r{number}", value=value)
    assert producer.flush(TIMEOUT_S) == 0
    values = settings.model_dump(mode="json", include={"kafka", "registry", "embeddings", "deployments", "routes"})
    env = {f"HEADRACE_{name.upper()}": json.dumps(_given(value)) for name, value in values.items()}
    env |= {"HEADRACE_STACK": "external", "HEADRACE_POSTGRES__DSN": stack.postgres_dsn}
    worker = WorkerProcess(("account",), lane=lane, slot="w0", env=env, folder=folder, cpu=0)
    worker.start()
    try:
        began = time.perf_counter()
        first = _await(stack, lane, 1)
        ready = time.perf_counter()
        _await(stack, lane, events)
        took = time.perf_counter() - ready
    finally:
        worker.stop()
    return {"per_second": round((events - first) / took), "first_row_s": round(ready - began, 1)}


def _await(stack: TestStack, lane: str, wanted: int) -> int:
    """Block until the ledger holds so many rows; how many it holds."""
    deadline = time.perf_counter() + TIMEOUT_S
    while (count := booked(stack, lane)) < wanted:
        assert time.perf_counter() < deadline, f"{count} of {wanted} after {TIMEOUT_S:g} s"
        time.sleep(0.05)
    return count


def _given(value: Any) -> Any:
    """Without what was left out."""
    if not isinstance(value, dict):
        return value
    return {name: _given(one) for name, one in value.items() if one is not None}


def booked(stack: TestStack, lane: str) -> int:
    """Rows of the lane."""
    return asyncio.run(look_up(stack.postgres_dsn, (), Selection(lane=lane))).total.attempts


def sums(stack: TestStack) -> float:
    """Seconds that ``costs --by tenant,day`` asks the table for."""
    began = time.perf_counter()
    asyncio.run(look_up(stack.postgres_dsn, ("tenant", "day"), Selection()))
    return round(time.perf_counter() - began, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    events = parser.parse_args().events
    with tempfile.TemporaryDirectory(prefix="hr-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        stack = TestStack(folder / "stack")
        try:
            found: dict[str, Any] = {f"batches_of_{n}": asyncio.run(rows(stack, events, n)) for n in (64, 500)}
            found["batches_of_1"] = asyncio.run(rows(stack, events // 20, 1))
            found["stage"] = stage(stack, events, folder)
            found["costs_s"] = sums(stack)
        finally:
            stack.close()
    print(json.dumps({"account": found, "events": events, "load_average": os.getloadavg()[0]}))  # noqa: T201


if __name__ == "__main__":
    main()
