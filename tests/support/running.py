"""A stage runner with fakes for broker, database and clock, and events to put before it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from faust.types import TP

from processors.clock import FakeClock
from processors.control import FakeControl
from processors.deferred import FakeDeferred
from processors.event import Incoming, Output
from processors.failpoints import Unarmed
from processors.finality import FakeFinality
from processors.redrive import FakeRedrives
from schemas.codec import Codec
from schemas.errors import (
    DependencyDownError,
)
from schemas.records import Admission, Admitted, Answer, Meta, Request, Text
from streams.claims import Claims
from streams.gate import Gate
from streams.metrics import Metrics
from streams.producer import FakeProducer
from streams.runner import StageRunner
from streams.services import Services
from streams.stages import STAGES, Stage

LANE = "live"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CODEC = Codec.offline()

Process = Callable[[Incoming[Any]], Awaitable[Sequence[Output]]]


@dataclass
class Message:
    """What the runner reads of a Faust message."""

    value: bytes | None
    key: bytes | None = b"r1"
    topic: str = "live.requests"
    partition: int = 0
    offset: int = 7
    timestamp: float = NOW.timestamp() - 2
    headers: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def tp(self) -> TP:
        return TP(self.topic, self.partition)


class Event:
    def __init__(self, message: Message) -> None:
        self.message = message
        self.acks = 0

    def ack(self) -> None:
        self.acks += 1


class Bench:
    """A runner with all its collaborators at hand."""

    def __init__(
        self,
        process: Process,
        *,
        stage: Stage = STAGES["admit"],
        timeout_s: float = 5.0,
        claims: Claims | None = None,
    ) -> None:
        self.producer, self.finality, self.redrives = FakeProducer(), FakeFinality(), FakeRedrives()
        self.metrics, self.clock = Metrics(), FakeClock(NOW)
        self.control, self.deferred = FakeControl(offset=3), FakeDeferred(NOW)
        self.crashes: list[BaseException] = []
        self.dependencies_up = asyncio.Event()
        self.dependencies_up.set()
        self.gate = Gate({"postgres": self._probe, "kafka": self._probe, "registry": self._probe}, self.metrics)
        services = Services(
            prefix="",
            lane=LANE,
            codec=CODEC,
            producer=self.producer,
            finality=self.finality,
            redrives=self.redrives,
            deferred=self.deferred,
            gate=self.gate,
            clock=self.clock,
            control=self.control,
            metrics=self.metrics,
            failpoints=Unarmed(),
            crash=self.crashes.append,
            claims=claims,
        )
        self.runner = StageRunner(stage, stage.inputs[0], process, services, timeout_s=timeout_s)

    async def _probe(self) -> None:
        if not self.dependencies_up.is_set():
            raise DependencyDownError("postgres", "test")

    async def take(self, message: Message) -> Event:
        event = Event(message)
        task = asyncio.ensure_future(self.runner.take(event))
        probe = asyncio.ensure_future(self.gate.run())
        await asyncio.wait({task}, timeout=20)
        probe.cancel()
        task.cancel()
        return event

    def sent(self, kind: str) -> list[Any]:
        return [outgoing for outgoing in self.producer.sent if outgoing.topic == f"{LANE}.{kind}"]

    def answers(self) -> list[Answer]:
        return [CODEC.decode(outgoing.value or b"", Answer) for outgoing in self.sent("answers")]

    def outcome(self, name: str) -> float:
        labels = {"stage": self.runner.stage.name, "lane": LANE, "outcome": name}
        return self.metrics.registry.get_sample_value("headrace_events_total", labels) or 0.0


def request() -> Request:
    meta = Meta(event_id="e1", request_id="r1", tenant="acme", lane=LANE, stage="producer")
    return Request(meta=meta, query=Text(inline="What?"))


def message(**changes: Any) -> Message:
    return replace(Message(CODEC.encode(request())), **changes)


async def admit(incoming: Incoming[Request]) -> Sequence[Output]:
    return [Admitted(meta=incoming.child("admit", "1"), request=incoming.record, admission=Admission())]


def failing(*errors: Exception) -> Process:
    left = list(errors)

    async def process(incoming: Incoming[Any]) -> Sequence[Output]:
        if left:
            raise left.pop(0)
        return await admit(incoming)

    return process
