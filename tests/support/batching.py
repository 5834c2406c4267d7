"""The complete stage in lane ``bulk`` with its batches, on the shipped fakes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from processors.batchapi.booking import Booking
from processors.batchapi.calls import MemoryBatchCalls
from processors.batchapi.collector import LEASE_S, Collector
from processors.batchapi.entry import Figures, Item
from processors.batchapi.handing import Handing
from processors.batchapi.memory import MemoryBatches
from processors.batchapi.opening import Opener
from processors.batchapi.parts import Parts
from processors.batchapi.policy import BatchPolicy
from processors.batchapi.provider import FakeProvider
from processors.batchapi.replies import BatchReplies
from processors.budgets.port import FakeBudgets
from processors.budgets.rule import Budget
from processors.cache import CachePolicy, Caches, MemoryCacheStore
from processors.clock import FakeClock
from processors.complete.observer import NullObserver
from processors.complete.processor import Complete
from processors.complete.purse import Guard
from processors.complete.retry import Backoff
from processors.complete.routes import Deployment, Route
from processors.complete.tasks import Tasks
from processors.control import FakeControl
from processors.embeddings import HashingEmbedder
from processors.event import Incoming, Recorded
from processors.journal import CallKey, MemoryJournal
from processors.model import FakeModelClient
from schemas.errors import NotYetError
from schemas.records import Completion, Enrichment
from tests.support.caching import Seen
from tests.support.completing import CODEC, PRICE
from tests.support.enrichments import ACCEPTED, enrichment, incoming

LANE = "bulk"
# 10 tokens in at 3 $ and 5 out at 15 $ a million.
WHOLE = Decimal("0.000105")


class Stop(Exception):  # noqa: N818
    """The worker is gone, at a fail point."""


@dataclass
class StopAt:
    """Fail points that end the work by an exception; each once."""

    name: str = ""

    def hit(self, name: str) -> None:
        if name == self.name:
            self.name = ""
            raise Stop


@dataclass
class HeardBatches:
    """What was told of batches."""

    events: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def on_batch(self, deployment: str, event: str) -> None:
        self.events.append(event)

    def on_trouble(self, deployment: str, code: str) -> None:
        self.troubles.append(code)

    def on_figures(self, deployment: str, figures: Figures | None) -> None: ...


class BatchBench:
    """A journal, a provider and as many workers as a test wants. ``policy`` and ``route`` take changes."""

    def __init__(self, policy: dict[str, Any] | None = None, budgets: Sequence[Budget] = (), **route: Any) -> None:
        self.clock = FakeClock(ACCEPTED)
        self.journal = MemoryJournal(self.clock)
        # The same rows under the leases of batches.
        self.lasting = MemoryJournal(self.clock, lease_s=LEASE_S)
        self.lasting.calls, self.lasting.attempts = self.journal.calls, self.journal.attempts
        self.model, self.control = FakeModelClient(), FakeControl()
        self.store, self.provider = MemoryBatches(self.clock), FakeProvider()
        self.heard, self.failpoints = HeardBatches(), StopAt()
        self.observer = NullObserver()
        # None: the route uses no cache.
        self.cached: CachePolicy | None = None
        self.entries, self.seen = MemoryCacheStore(self.journal, self.store), Seen()
        values = {"max_wait_s": 0.0, "poll_s": 1.0, **(policy or {})}
        self.deployment = Deployment(
            name="d1", base_url="http://x/v1", model="m1", price=PRICE, batch=BatchPolicy(**values)
        )
        self.route = Route(name="default", deployment=self.deployment, **route)
        self.budgets = FakeBudgets(self.clock)
        self.guard = Guard(self.budgets, tuple(budgets), clock=self.clock, hold_s=LEASE_S)

    def worker(self, owner: str = "w1") -> Complete:
        routes = {"default": self.route}
        calls = MemoryBatchCalls(self.journal)
        booking = Booking(self.lasting, self._opener(), self.clock)
        replies = BatchReplies(self.model)
        handing = Handing(
            self.store,
            calls,
            self.journal,
            replies,
            booking,
            clock=self.clock,
            lane=LANE,
            failpoints=self.failpoints,
        )
        return Complete(
            self.journal,
            replies,
            routes=routes,
            codec=CODEC,
            clock=self.clock,
            control=self.control,
            owner=owner,
            backoff=Backoff(first_s=0.001, longest_s=0.002),
            random_=random.Random(1),
            guard=self.guard,
            batches=handing,
            caches=self._caches(),
            observer=self.observer,
        )

    def collector(self, owner: str = "w1") -> Collector:
        parts = Parts(
            store=self.store,
            calls=MemoryBatchCalls(self.journal),
            journal=self.lasting,
            provider=self.provider,
            opener=self._opener(),
            booking=Booking(self.lasting, self._opener(), self.clock),
            control=self.control,
            failpoints=self.failpoints,
            observer=self.heard,
        )
        # Its own clock is the test's, too.
        began = self.clock.now()

        def elapsed() -> float:
            return (self.clock.now() - began).total_seconds()

        return Collector(LANE, self.deployment, parts, owner=owner, clock=elapsed)

    async def rounds(self, times: int = 3, owner: str = "w1") -> None:
        """So many rounds of one worker's collector, a minute apart."""
        collector = self.collector(owner)
        for _ in range(times):
            await collector.round()
            self.clock.advance(60)

    def item(self, request_id: str = "r1") -> Item:
        return self.store.rows[key_of(request_id).call_id]

    def _caches(self) -> Caches | None:
        if self.cached is None:
            return None
        policies = {"default": self.cached}
        return Caches(
            self.entries,
            self.journal,
            policies=policies,
            codec=CODEC,
            clock=self.clock,
            embedder=HashingEmbedder(),
            observer=self.seen,
        )

    def _opener(self) -> Opener:
        tasks = Tasks({"default": self.route}, CODEC, self.clock, can_stream=False)
        return Opener(self.lasting, tasks=tasks, guard=self.guard, codec=CODEC, clock=self.clock, control=self.control)


def key_of(request_id: str) -> CallKey:
    return CallKey(tenant="acme", lane=LANE, run="", request_id=request_id)


def bulk_event(request_id: str = "r1", *, ttl_h: float | None = 48.0, **changes: Any) -> Incoming[Enrichment]:
    """An event of a request in the lane that goes by batch."""
    expires_at = None if ttl_h is None else ACCEPTED + timedelta(hours=ttl_h)
    return incoming(enrichment(request_id, lane=LANE, expires_at=expires_at, **changes), CODEC)


async def hand_over(bench: BatchBench, *request_ids: str) -> None:
    """Events of these requests, each stored for a batch."""
    for request_id in request_ids:
        with pytest.raises(NotYetError) as caught:
            await bench.worker()(bulk_event(request_id))
        assert caught.value.reason == "batch/d1"


async def answered(bench: BatchBench, request_id: str = "r1", owner: str = "w1") -> Completion:
    """The completion when the event has come back."""
    *_, last = await bench.worker(owner)(bulk_event(request_id))
    assert isinstance(last, Recorded)
    assert isinstance(last.record, Completion)
    return last.record
