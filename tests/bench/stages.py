"""Requests through the whole stream with a fake provider: rate, latency and where the time goes by stage."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from schemas.records import Answer, Request, Retrieval, Text
from streams.answers import AnswerStream
from streams.publish import Publisher, producer_meta
from tests.faults.pipeline import Pipeline, Scene, scene
from tests.faults.traffic import Publisher as Traffic
from tests.support.stack import TestStack

# As `headrace up` runs them: one process a core.
GROUPS = (("admit", "enrich", "filter", "index"), ("complete",))
LATENCY = ("--median-ms", "200")


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1)


def ask(place: Scene, count: int, in_flight: int) -> dict[str, Any]:
    """Keep ``in_flight`` requests open until ``count`` are answered."""
    publisher = Publisher(place.settings, place.codec, lane=place.lane)
    published: dict[str, float] = {}
    latencies: list[float] = []
    answers: list[Answer] = []

    def publish(number: int) -> None:
        request_id = f"{place.lane}-{in_flight}-{number}"
        meta = producer_meta(tenant=place.tenant, lane=place.lane, request_id=request_id, cause=request_id)
        retrieval = Retrieval(enabled=False)
        published[request_id] = time.monotonic()
        publisher.send(Request(meta=meta, query=Text(inline="How does it work?"), retrieval=retrieval))

    began, wanted = time.monotonic(), [f"{place.lane}-{in_flight}-{number}" for number in range(count)]
    with AnswerStream(place.settings, place.codec, lane=place.lane) as stream:
        for number in range(in_flight):
            publish(number)
        publisher.flush()
        sent = in_flight
        for answer in stream.collect(wanted, timeout_s=300):
            latencies.append((time.monotonic() - published[answer.meta.request_id]) * 1000)
            answers.append(answer)
            if sent < count:
                publish(sent)
                publisher.flush()
                sent += 1
    took = time.monotonic() - began
    return {
        "requests": count,
        "answered": sum(answer.status == "answered" for answer in answers),
        "per_second": round(len(answers) / took, 1),
        "latency_ms": {"p50": percentile(latencies, 0.5), "p95": percentile(latencies, 0.95)},
        "stages_ms": by_stage(answers),
    }


def by_stage(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Median waiting and service of each stage."""
    found: dict[str, list[tuple[float, float]]] = {}
    for answer in answers:
        for timing in answer.timings:
            found.setdefault(timing.stage, []).append((timing.waited_ms, timing.service_ms))
    return {
        stage: {
            "waited": round(statistics.median(waited for waited, _ in times), 1),
            "service": round(statistics.median(service for _, service in times), 1),
        }
        for stage, times in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    requests = parser.parse_args().requests
    folder = Path(tempfile.mkdtemp(prefix="hr-"))
    folder.chmod(0o755)
    stack = TestStack(folder)
    try:
        lane = f"b{secrets.token_hex(3)}"
        with scene(stack, folder / "bench", lane, *LATENCY) as place, Pipeline(place, GROUPS) as pipeline:
            Traffic(place).push_prompt()
            ask(place, 20, 10)
            result = {f"in_flight_{n}": ask(place, requests, n) for n in (10, 100)}
            pipeline.stop()
    finally:
        stack.close()
    print(json.dumps({"stages": result, "provider_ms": 200, "load_average": os.getloadavg()[0]}))  # noqa: T201


if __name__ == "__main__":
    main()
