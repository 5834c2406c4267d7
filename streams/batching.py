"""Batches of a worker's lane: what the stage hands calls over with, and the collectors beside it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from processors.batchapi.booking import Booking
from processors.batchapi.calls import PostgresBatchCalls
from processors.batchapi.collector import LEASE_S, LOOK_FOR_S, Collector
from processors.batchapi.entry import Figures
from processors.batchapi.handing import Handing
from processors.batchapi.openai import OpenAIBatches
from processors.batchapi.opening import Opener
from processors.batchapi.parts import Parts
from processors.batchapi.postgres import PostgresBatches
from processors.batchapi.replies import BatchReplies
from processors.clock import Clock
from processors.complete.purse import Guard
from processors.complete.routes import Deployment, Route
from processors.complete.tasks import Tasks
from processors.control import ControlView
from processors.failpoints import Failpoints
from processors.journal.postgres import PostgresJournal
from processors.model.port import ModelClient
from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import DependencyDownError
from streams.dead_letters import safe_message
from streams.metrics import Metrics

# Between two rounds of a collector; a round without work is two short statements.
INTERVAL_S = 2.0
WATCH_S = 10.0
_STATES = ("waiting", "taken", "sent", "answered", "returned", "withdrawn")

log = structlog.get_logger(__name__)


class Batching:
    """The batches of one worker. Call ``start`` before the first event and ``stop`` after the last."""

    def __init__(
        self,
        routes: Mapping[str, Route],
        client: ModelClient,
        database: Database,
        *,
        lane: str,
        owner: str,
        codec: Codec,
        clock: Clock,
        control: ControlView,
        guard: Guard,
        metrics: Metrics,
        failpoints: Failpoints,
        lease_s: float,
        interval_s: float = INTERVAL_S,
        look_for_s: float = LOOK_FOR_S,
        lead_s: float | None = None,
    ) -> None:
        self._lane, self._interval_s = lane, interval_s
        self._provider = OpenAIBatches()
        store, calls = PostgresBatches(database), PostgresBatchCalls(database, lease_s=lease_s)
        journal, lasting = PostgresJournal(database, lease_s=lease_s), PostgresJournal(database, lease_s=LEASE_S)
        tasks = Tasks(routes, codec, clock, can_stream=True)
        opener = Opener(lasting, tasks=tasks, guard=guard, codec=codec, clock=clock, control=control)
        booking = Booking(lasting, opener, clock)
        self.handing = Handing(
            store, calls, journal, BatchReplies(client), booking, clock=clock, lane=lane, failpoints=failpoints
        )
        parts = Parts(
            store=store,
            calls=calls,
            journal=lasting,
            provider=self._provider,
            opener=opener,
            booking=booking,
            control=control,
            failpoints=failpoints,
            observer=BatchMetrics(metrics, lane),
        )
        own = _batched(routes.values())
        self._store, self._collectors = (
            store,
            [
                Collector(lane, one, parts, owner=owner, look_for_s=look_for_s, lead_s=lead_s or lease_s)
                for one in _with_key(own)
            ],
        )
        # Whether the lane goes by batch; one that does so no more still has to end what was begun.
        self.goes = any(one.batch is not None and lane in one.batch.lanes for one in own)
        # Routes with deployments whose batches in this lane are not made use of.
        self.unused = sorted(
            {
                (name, one.name)
                for name, route in routes.items()
                for way in _ways(route)
                if way.fan_out is not None
                for one in way.own.deployments
                if one.batch is not None and lane in one.batch.lanes
            }
        )
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def collected(self) -> list[str]:
        """The deployments whose batches are collected, by name."""
        return [one.deployment.name for one in self._collectors]

    def start(self) -> None:
        """Begin to collect, also what is left of an earlier setting of the lanes. Does not block."""
        for route, deployment in self.unused:
            log.warning(
                "calls of the route don't go by the deployment's batches: it has a fan-out",
                route=route,
                deployment=deployment,
            )
        self._tasks = [asyncio.create_task(self._run(one), name="batches") for one in self._collectors]
        if not self.goes:
            self._tasks.append(asyncio.create_task(self._watch(), name="batches-left"))

    async def stop(self) -> None:
        """Stop collecting: whatever step is open, another worker goes on from there."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._provider.close()

    async def _run(self, collector: Collector) -> None:
        while True:
            try:
                await collector.round()
            except DependencyDownError:
                # The rows say where to go on.
                pass
            except Exception as error:
                log.error(
                    "batches can't be worked on", deployment=collector.deployment.name, reason=safe_message(error)
                )
            await asyncio.sleep(self._interval_s * random.uniform(0.8, 1.2))

    async def _watch(self) -> None:
        """Spare the lane's events the question for an item, once nothing is left of an earlier setting."""
        while True:
            try:
                found = [await self._store.figures(self._lane, one.deployment.name) for one in self._collectors]
                self.handing.asks = any(one.items for one in found)
            except DependencyDownError:
                pass
            await asyncio.sleep(WATCH_S)


def _batched(routes: Iterable[Route]) -> list[Deployment]:
    """Every deployment that a call may be handed over for, each once: those of the routes, and of their classes."""
    found: dict[str, Deployment] = {}
    for way in (each for route in routes for each in _ways(route)):
        found |= {one.name: one for one in way.own.deployments if one.batch is not None}
    return list(found.values())


def _ways(route: Route) -> tuple[Route, ...]:
    """The route, and what it is for each of its classes."""
    return (route, *(() if route.complexity is None else route.complexity.routes.values()))


def _with_key(deployments: Sequence[Deployment]) -> list[Deployment]:
    """Each with its first key: a batch belongs to the key's project."""
    return [replace(one, api_key=one.api_keys[0] if one.api_keys else one.api_key) for one in deployments]


class BatchMetrics:
    """A ``BatchObserver`` that counts, and logs what an operator has to see to."""

    def __init__(self, metrics: Metrics, lane: str) -> None:
        self._metrics, self._lane = metrics, lane

    def on_batch(self, deployment: str, event: str) -> None:
        self._metrics.batches.labels(self._lane, deployment, event).inc()
        told = {"deployment": deployment, "lane": self._lane}
        if event == "lost":
            log.error("a batch may have been made, and its provider does not know it; it is booked unknown", **told)
        elif event == "refused":
            log.warning("a batch was refused; its requests have the provider's error", **told)
        elif event == "not-offered":
            log.warning(
                "no Batch API at the deployment's base_url; requests are called one by one, at the full price",
                remedy=f"leave out deployments.{deployment}.batch",
                **told,
            )
        else:
            log.info("batch", event_kind=event, **told)

    def on_trouble(self, deployment: str, code: str) -> None:
        self._metrics.batch_troubles.labels(deployment, code).inc()
        log.warning("an exchange about a batch failed; it is tried again", deployment=deployment, error_code=code)

    def on_figures(self, deployment: str, figures: Figures | None) -> None:
        metrics, items = self._metrics, figures.items if figures else {}
        metrics.batches_open.labels(self._lane, deployment).set(figures.open if figures else 0)
        metrics.batch_age.labels(self._lane, deployment).set(figures.oldest_s if figures else 0.0)
        for state in _STATES:
            metrics.batch_items.labels(self._lane, deployment, state).set(items.get(state, 0))
