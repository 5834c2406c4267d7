"""The complete stage on the shipped fakes, and events to put before it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from processors.clock import FakeClock
from processors.complete.deltas import FakeDeltaSink
from processors.complete.live import Pace
from processors.complete.observer import NullObserver
from processors.complete.processor import Complete
from processors.complete.retry import Backoff
from processors.complete.routes import Deployment, Route
from processors.control import FakeControl
from processors.event import Incoming, Recorded
from processors.journal import CallKey, MemoryJournal
from processors.model import FakeModelClient
from processors.model.port import echo
from processors.prices.tariff import Price
from schemas.codec import Codec
from schemas.records import Enrichment
from tests.support.enrichments import ACCEPTED, enrichment, incoming

PRICE = Price(prompt=Decimal("3"), completion=Decimal("15"), cached_prompt=Decimal("0.3"))
CODEC = Codec.offline()
KEY = CallKey(tenant="acme", lane="live", run="", request_id="r1")


@dataclass
class Heard(NullObserver):
    """What the stage told its observer."""

    drifts: int = 0
    unknowns: list[str] = field(default_factory=list)
    deltas: list[str] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    first_tokens: list[float] = field(default_factory=list)

    def on_input_drift(self) -> None:
        self.drifts += 1

    def on_unknown(self, deployment: str, code: str) -> None:
        self.unknowns.append(code)

    def on_delta(self, outcome: str) -> None:
        self.deltas.append(outcome)

    def on_gap(self, deployment: str, seconds: float) -> None:
        self.gaps.append(seconds)

    def on_first_token(self, deployment: str, seconds: float) -> None:
        self.first_tokens.append(seconds)


class Bench:
    """A journal, a model and as many workers as a test wants."""

    def __init__(self, **route: Any) -> None:
        self.clock = FakeClock(ACCEPTED)
        self.journal = MemoryJournal(self.clock)
        self.model = FakeModelClient()
        self.heard = Heard()
        self.control = FakeControl()
        self.sink = FakeDeltaSink()
        deployment = Deployment(name="d1", base_url="http://x/v1", model="m1", price=PRICE, max_concurrency=4)
        self.route = Route(name="default", deployment=deployment, **route)

    def worker(self, owner: str = "w1", **options: Any) -> Complete:
        options.setdefault("deltas", self.sink)
        options.setdefault("pace", Pace(interval_s=0.001, settle_s=1.0))
        return Complete(
            self.journal,
            self.model,
            routes=options.pop("routes", {"default": options.pop("route", self.route)}),
            codec=CODEC,
            clock=self.clock,
            control=self.control,
            owner=owner,
            observer=self.heard,
            backoff=Backoff(first_s=0.001, longest_s=0.002),
            random_=random.Random(1),
            **options,
        )

    def fail_with(self, *errors: Exception) -> None:
        """The first calls fail so; the others are answered."""
        left = list(errors)
        self.model.script = lambda call: left.pop(0) if left else echo(call)


def event(request_id: str = "r1", **changes: Any) -> Incoming[Enrichment]:
    return incoming(enrichment(request_id, **changes), CODEC)


def streaming(request_id: str = "r1", **changes: Any) -> Incoming[Enrichment]:
    """An event of a request that wants a stream."""
    return event(request_id, stream=True, **changes)


def as_bytes(outputs: Sequence[Any]) -> list[bytes]:
    return [item.value if isinstance(item, Recorded) else CODEC.encode(item) for item in outputs]
