"""Where the time goes that is not the provider's: a waterfall by stage, against bare round trips on the same broker.

``make bench ARGS="overhead [--seconds 30] [--in-flight 1,10]"``. The floor is the same number of produce-to-consume
round trips, one after the other in a tight loop of one process, with records of the same size and every one
acknowledged by the broker. Processor time by stage comes from a second run with a process for each stage.
"""

from __future__ import annotations

import argparse
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.records import Answer
from streams.topics import topic_name
from tests.bench.flow import BY_STAGE, Ask, Flow, Measured, flowing
from tests.bench.machine import Meter, confine, described, fresh_stack, percentile, show, table, tell
from tests.support.polling import eventually
from tests.support.stack import TestStack

LATENCY_MS = 200.0
QUESTION = "How does the with statement work in Python, and when should it be used?"
# The topics that a request goes through: each is a record produced, acknowledged and consumed.
WAY = ("requests", "admitted", "enrichments.normal", "completions", "answers")
ROUNDS = 200

Step = tuple[str, float]


def steps(answer: Answer, latency_ms: float) -> Iterator[Step]:
    """The parts of one request's time, in milliseconds: waiting and service by stage, and what is left."""
    called = sum(attempt.duration_ms or 0.0 for attempt in answer.attempts)
    known = 0.0
    for timing in answer.timings:
        service = timing.service_ms - (called if timing.stage == "complete" else 0.0)
        yield f"{timing.stage}: waits", timing.waited_ms
        yield f"{timing.stage}: works", service
        known += timing.waited_ms + service
    yield "the call beyond the provider's time", called - LATENCY_MS
    # The last stage's own publication, and the client's.
    yield "published five times, made final, read by the client", latency_ms - called - known


def waterfall(found: Measured) -> list[tuple[str, float, float]]:
    """Each part's median and p99, in the order of the way, and the whole."""
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for answer in found.answers:
        latency = found.latencies_ms[answer.meta.request_id]
        for name, value in steps(answer, latency):
            parts[name].append(value)
        parts["**all but the provider**"].append(latency - LATENCY_MS)
    return [(name, percentile(values, 0.5), percentile(values, 0.99)) for name, values in parts.items()]


def sizes(flow: Flow) -> list[int]:
    """Bytes of a usual record on each topic of the way."""
    place, found = flow.place, []
    options = {"bootstrap.servers": place.settings.kafka.bootstrap, "group.id": "sizes", "enable.auto.commit": False}
    for kind in WAY:
        consumer = Consumer(options)
        partitions = range(place.settings.partitions)
        consumer.assign([TopicPartition(topic_name("", place.lane, kind), one, 0) for one in partitions])
        message = consumer.poll(20)
        consumer.close()
        assert message is not None and message.error() is None, f"no record on {kind}"
        found.append(len(message.value() or b""))
    return found


def floor(flow: Flow, rounds: int) -> list[float]:
    """Milliseconds of one way through bare round trips: each record is acknowledged and consumed before the next."""
    place = flow.place
    bootstrap = place.settings.kafka.bootstrap
    bodies = [os.urandom(size) for size in sizes(flow)]
    # Topics of the lane that no stage of this run reads.
    topic = topic_name("", place.lane, "evaluations")
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "enable.idempotence": True, "log_level": 2})
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "floor", "enable.auto.commit": False, "fetch.wait.max.ms": 50}
    )
    _, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20)
    consumer.assign([TopicPartition(topic, 0, high)])
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for body in bodies:
            producer.produce(topic, value=body, partition=0)
            producer.flush(10)
            message = None
            while message is None:
                message = consumer.poll(1)
        times.append((time.perf_counter() - began) * 1000)
    consumer.close()
    return times[rounds // 10 :]


def by_stage(stack: TestStack, folder: Path, in_flight: int, seconds: float) -> list[tuple[str, float]]:
    """Processor milliseconds a request, by stage, broker and Postgres: a process for each stage."""
    lane = f"s{secrets.token_hex(3)}"
    with flowing(stack, folder / lane, lane, latency_ms=LATENCY_MS, groups=BY_STAGE) as running:
        ask = Ask(lambda _: QUESTION)
        running.flow.closed("warm", ask, in_flight=in_flight, seconds=min(5.0, seconds))
        tell(f"a process for each stage, {in_flight} in flight")
        meter = Meter({**running.processes, "client": os.getpid()})
        found = running.flow.closed("split", ask, in_flight=in_flight, seconds=seconds)
        # What comes after the answer, as the books, belongs to the request too.
        eventually(lambda: running.flow.lag() == 0, "everything is committed", timeout_s=60)
        return list(meter.ms_per(found.sent).items())


def run(stack: TestStack, folder: Path, levels: Sequence[int], seconds: float) -> list[str]:
    """The blocks to print."""
    lane, ask = f"o{secrets.token_hex(3)}", Ask(lambda _: QUESTION)
    blocks = []
    with flowing(stack, folder / lane, lane, latency_ms=LATENCY_MS) as running:
        running.flow.closed("warm", ask, in_flight=5, seconds=min(5.0, seconds))
        tell("bare round trips")
        bare = floor(running.flow, ROUNDS)
        for level in levels:
            tell(f"{level} in flight")
            found = running.flow.closed(f"at{level}", ask, in_flight=level, seconds=seconds)
            parts = waterfall(found)
            p50, p99 = percentile(bare, 0.5), percentile(bare, 0.99)
            lines = [*parts, (f"**{len(WAY)} bare round trips**", p50, p99)]
            ratio = f"Ratio at the median: {parts[-1][1] / p50:.1f}; {found.sent} requests, {found.lost} lost."
            blocks += [f"{level} in flight:", table(("", "p50, ms", "p99, ms"), lines), ratio]
    used = by_stage(stack, folder, max(levels), seconds)
    stages = {stage for stages in BY_STAGE for stage in stages}
    total = sum(ms for name, ms in used if name in stages or name in ("broker", "postgres"))
    lines_used = [*used, ("**stages, broker and Postgres**", total)]
    return [*blocks, f"A process for each stage, {max(levels)} in flight:", table(("", "CPU ms a request"), lines_used)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="overhead", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--in-flight", default="1,10")
    options = parser.parse_args()
    confine()
    with fresh_stack() as (folder, stack):
        levels = [int(part) for part in options.in_flight.split(",")]
        blocks = run(stack, folder, levels, options.seconds)
        about = described(stack)
    show(*blocks, about)


if __name__ == "__main__":
    main()
