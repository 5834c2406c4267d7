"""The whole stream under load: requests in, answers out, with the times of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, Producer

from schemas.errors import DependencyDownError
from schemas.records import Answer, Request, Retrieval, Text
from streams.app import group_name
from streams.cli.workers import GROUPS
from streams.publish import producer_meta
from streams.reading import Place, Stretch, TopicReader
from streams.stages import STAGES
from streams.topics import admin_client, topic_name
from tests.bench.machine import tell
from tests.faults.pipeline import Pipeline, Scene, scene
from tests.faults.traffic import Publisher as Traffic
from tests.support.stack import TestStack

# As `headrace up` runs the stages: two processes, each on a core of its own.
AS_SHIPPED = tuple(GROUPS.values())
# To tell stages apart by their processor time.
BY_STAGE = tuple((stage,) for stages in AS_SHIPPED for stage in stages)
MOST_IN_FLIGHT = 600
DAY_MS = 24 * 3600 * 1000
POLL_S = 0.002
SETTLED_S = 20.0


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked: the question of the n-th request, and whether passages are searched for it."""

    question: Callable[[int], str]
    search: bool = False


@dataclass(slots=True)
class Measured:
    """What came of a load. Times are of ``time.monotonic``, latencies in milliseconds."""

    began: float = 0.0
    sent: int = 0
    # Acknowledged by the broker: each of these has to be answered.
    accepted: set[str] = field(default_factory=set)
    open: dict[str, float] = field(default_factory=dict)
    answered_at: dict[str, float] = field(default_factory=dict)
    latencies_ms: dict[str, float] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Requests that the broker has and that got no answer."""
        return len(self.accepted - self.answered_at.keys())

    def not_answered(self) -> int:
        """Of the answers that were looked into, those that say otherwise than ``answered``."""
        return sum(answer.status != "answered" for answer in self.answers)

    def within(self, start: float, end: float) -> list[float]:
        """Latencies of what was answered in a stretch of time, in seconds from the beginning."""
        times = self.answered_at.items()
        return [self.latencies_ms[name] for name, at in times if start <= at - self.began < end]


class Flow:
    """A scene with its client. ``close`` it."""

    def __init__(self, place: Scene, *, keep_answers: int = 2_000) -> None:
        self.place, self._keep = place, keep_answers
        options: dict[str, Any] = {
            "bootstrap.servers": place.settings.kafka.bootstrap,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "linger.ms": 0,
            "log_level": 2,
            "queue.buffering.max.messages": 500_000,
        }
        self._producer = Producer(options)
        self._reader = TopicReader(place.settings)
        # Asks for ends alone; it is assigned nothing.
        self._counting, self._places = TopicReader(place.settings), dict[str, list[Place]]()
        places = self._reader.places([topic_name("", place.lane, "answers")])
        self._reader.start({one: stretch.end for one, stretch in _settled(self._reader, places).items()})

    def close(self) -> None:
        """Leave the broker."""
        self._producer.flush(10)
        self._reader.close()
        self._counting.close()

    def closed(self, name: str, ask: Ask, *, in_flight: int, seconds: float, drain_s: float = 60.0) -> Measured:
        """Keep so many requests open for so long, then wait for the rest of the answers."""
        found = Measured(began=time.monotonic())
        ends = found.began + seconds
        while (now := time.monotonic()) < ends or (found.open and now < ends + drain_s):
            while now < ends and len(found.open) < in_flight:
                self._send(name, ask, found)
            self._take(found)
        return found

    def counted(self, name: str, ask: Ask, *, requests: int, in_flight: int, drain_s: float = 60.0) -> Measured:
        """Send so many, so many of them open at a time, and wait for their answers."""
        found = Measured(began=time.monotonic())
        last = found.began
        while (found.sent < requests or found.open) and time.monotonic() < last + drain_s:
            while found.sent < requests and len(found.open) < in_flight:
                self._send(name, ask, found)
            before = len(found.answered_at)
            self._take(found)
            last = time.monotonic() if len(found.answered_at) > before else last
        return found

    def paced(self, name: str, ask: Ask, times_s: Iterable[float], *, drain_s: float = 60.0) -> Measured:
        """Send at these times from now, whatever has been answered; then wait for the rest of the answers."""
        found = Measured(began=time.monotonic())
        for at in times_s:
            while time.monotonic() - found.began < at:
                self._take(found)
            self._send(name, ask, found)
        ends = time.monotonic() + drain_s
        while found.open and time.monotonic() < ends:
            self._take(found)
        return found

    def fill(self, name: str, ask: Ask, count: int) -> None:
        """Put so many requests before the workers; returns when the broker has them all."""
        found = Measured()
        for _ in range(count):
            self._send(name, ask, found)
        self._producer.flush(300)
        assert len(found.accepted) == count, f"the broker took {len(found.accepted)} of {count}"

    def count(self, kind: str) -> int:
        """How many records a topic has had."""
        if kind not in self._places:
            self._places[kind] = self._counting.places([topic_name("", self.place.lane, kind)])
        return sum(stretch.end for stretch in self._counting.ends(self._places[kind]).values())

    def lag(self) -> int:
        """Events that the stages have not committed yet, over all groups of the lane."""
        place = self.place
        with TopicReader(place.settings) as reader:
            admin = admin_client(place.settings)
            left = 0
            for stage in STAGES.values():
                for source in stage.inputs:
                    topic = topic_name("", place.lane, source.kind)
                    group = ConsumerGroupTopicPartitions(group_name("", place.lane, stage.group_of(source)))
                    listed = admin.list_consumer_group_offsets([group])[group.group_id].result(20).topic_partitions
                    done = {one.partition: max(0, one.offset) for one in listed}
                    ends = reader.ends(reader.places([topic]))
                    left += sum(stretch.end - done.get(number, 0) for (_, number), stretch in ends.items())
        return left

    def _send(self, name: str, ask: Ask, found: Measured) -> None:
        place, request_id = self.place, f"{name}-{found.sent}"
        record = Request(
            meta=producer_meta(tenant=place.tenant, lane=place.lane, request_id=request_id, cause=request_id),
            query=Text(inline=ask.question(found.sent)),
            retrieval=Retrieval(enabled=ask.search),
            ttl_ms=DAY_MS,
        )

        def acknowledged(error: object, _message: object) -> None:
            if error is None:
                found.accepted.add(request_id)

        topic, value = topic_name("", place.lane, "requests"), place.codec.encode(record)
        while True:
            try:
                self._producer.produce(topic, value=value, key=request_id.encode(), on_delivery=acknowledged)
                break
            except BufferError:
                self._producer.poll(0.05)
        found.open[request_id] = time.monotonic()
        found.sent += 1
        self._producer.poll(0)

    def _take(self, found: Measured) -> None:
        for entry in self._reader.poll(POLL_S):
            now, name = time.monotonic(), (entry.key or b"").decode()
            sent_at = found.open.pop(name, None)
            if sent_at is None:
                continue
            found.answered_at[name], found.latencies_ms[name] = now, (now - sent_at) * 1000
            if len(found.answers) < self._keep:
                found.answers.append(self.place.codec.decode(entry.value or b"", Answer))
        self._producer.poll(0)


def _settled(reader: TopicReader, places: Sequence[Place]) -> dict[Place, Stretch]:
    """The partitions' ends, once topics that were just made have their leaders."""
    deadline = time.monotonic() + SETTLED_S
    while True:
        try:
            return reader.ends(places)
        except DependencyDownError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@dataclass(frozen=True, slots=True)
class Running:
    """A lane with its workers, and the process of everything that takes part, by name."""

    flow: Flow
    pipeline: Pipeline
    processes: dict[str, int]


@contextmanager
def flowing(
    stack: TestStack,
    folder: Path,
    lane: str,
    *,
    latency_ms: float,
    groups: tuple[tuple[str, ...], ...] = AS_SHIPPED,
    complete_workers: int = 1,
    documents: bool = False,
    before: Callable[[Flow], None] = lambda _: None,
    provider: Sequence[str] = (),
    **changes: Any,
) -> Iterator[Running]:
    """A lane whose workers run, and a provider that always takes so long, with more options of its own.

    ``before`` the workers start.
    """
    deployment = {"max_concurrency": MOST_IN_FLIGHT, "total_timeout_s": 60.0, "first_token_timeout_s": 50.0}
    settings = {"deployments": {"fake": deployment}, "stages": {"complete": {"timeout_s": 120}}, **changes}
    constant = ("--slow-ms", f"{latency_ms:g}", "--slow-share", "1")
    with scene(stack, folder, lane, *constant, *provider, **settings) as place:
        flow = Flow(place)
        try:
            traffic = Traffic(place)
            traffic.push_prompt()
            if documents:
                traffic.corpus()
            before(flow)
            tell(f"starting {len(groups)} workers")
            with ExitStack() as running:
                pipelines = [running.enter_context(Pipeline(place, groups))]
                for number in range(1, complete_workers):
                    pipelines.append(running.enter_context(Pipeline(place, (("complete",),), slot=f"w{number}")))
                yield Running(flow, pipelines[0], processes(stack, pipelines, place))
                for pipeline in pipelines:
                    pipeline.stop()
        finally:
            flow.close()


def processes(stack: TestStack, pipelines: Sequence[Pipeline], place: Scene) -> dict[str, int]:
    """The root process of everything that takes part, by name: ``flow`` is the one of many stages."""
    workers = {}
    for number, pipeline in enumerate(pipelines):
        for stages, worker in pipeline.workers.items():
            name = stages[0] if len(stages) == 1 else "flow"
            workers[f"{name} {number + 1}" if number else name] = worker.pid
    parts = (("broker", "kafka"), ("postgres", "postgres"), ("embeddings", "embeddings"))
    outside = {name: stack.pid(part) for name, part in parts if stack.runs(part)}
    return {**workers, **outside, "provider": place.provider.pid}
