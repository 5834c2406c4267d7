"""Publishes cost events from the tables they are kept in, whatever became of the worker that caused them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from processors.complete.late import correction
from processors.event import Output, Recorded
from processors.journal.late import LateOutcome, LateOutcomes, PostgresLateOutcomes
from processors.postgres import Database
from processors.spending.port import Spends, Untold
from processors.spending.postgres import PostgresSpends
from schemas.codec import Codec
from schemas.errors import DependencyDownError, PoisonError
from schemas.records import Cost
from streams.dead_letters import safe_message
from streams.gate import Released
from streams.outputs import Publisher
from streams.producer import AUTHORIZATION
from streams.services import Services
from streams.stages import STAGES

# Between two looks at the tables.
INTERVAL_S = 2.0
BATCH = 200
# How long another worker leaves what this one took.
HOLD_S = 30.0

log = structlog.get_logger(__name__)


class Source(Protocol):
    """Where cost events wait to be told. A round blocks on Postgres and the broker; raises ``DependencyDownError``."""

    async def round(self, publish: Callable[[Sequence[Output]], Awaitable[None]]) -> int:
        """Tell a batch of what is due; how many events that were."""
        ...


class Embeddings:
    """What embeddings cost. An event is published with the bytes that were stored."""

    def __init__(self, spends: Spends, services: Services) -> None:
        self._spends, self._services = spends, services

    async def round(self, publish: Callable[[Sequence[Output]], Awaitable[None]]) -> int:
        untold = await self._spends.take(self._services.lane, limit=BATCH, hold_s=HOLD_S)
        if untold:
            self._services.failpoints.hit("after_spends_taken")
            read = [(one, await self._decoded(one)) for one in untold]
            await publish([Recorded(cost, one.event) for one, cost in read if cost is not None])
            await self._spends.told(untold)
        return len(untold)

    async def _decoded(self, one: Untold) -> Cost | None:
        """The event; ``None`` for one that nobody can read, which its row then stands for."""
        try:
            return await self._services.codec.decode_fetching(one.event, Cost)
        except PoisonError as error:
            log.error("the cost of an embedding can't be published", reason=safe_message(error))
            return None


class Late:
    """What attempts cost in truth that were booked unknown. Whoever booked the outcome may be gone."""

    def __init__(self, outcomes: LateOutcomes, services: Services) -> None:
        self._outcomes, self._services = outcomes, services

    async def round(self, publish: Callable[[Sequence[Output]], Awaitable[None]]) -> int:
        untold = await self._outcomes.untold(self._services.lane, limit=BATCH)
        if untold:
            costs = [await _correction(one, self._services.codec) for one in untold]
            await publish([cost for cost in costs if cost is not None])
            await self._outcomes.told(untold)
        return len(untold)


async def _correction(one: LateOutcome, codec: Codec) -> Cost | None:
    try:
        return await correction(one, codec)
    except PoisonError as error:
        log.error("a late outcome can't be told", attempt_id=one.row.attempt_id, reason=safe_message(error))
        return None


class Telling:
    """A worker's part in it, at its start and every few seconds. Every worker of a stage that spends runs one."""

    def __init__(self, sources: Sequence[Source], services: Services) -> None:
        self._sources, self._services, self._publisher = sources, services, Publisher(services)

    async def run(self) -> None:
        """Go on until the worker stops. Raises ``ConfigurationError`` when the topic is missing or forbidden."""
        gate = self._services.gate
        while True:
            try:
                await gate.wait(("postgres", "kafka", AUTHORIZATION))
                told = await self.round()
            except Released:
                return
            except DependencyDownError as error:
                told = 0
                gate.report(error)
            if told < BATCH:
                await asyncio.sleep(INTERVAL_S)

    async def round(self) -> int:
        """Tell a batch of what is due; how many events that were. Raises ``DependencyDownError``."""
        return sum([await source.round(self._publish) for source in self._sources])

    async def _publish(self, outputs: Sequence[Output]) -> None:
        await self._services.producer.send(self._publisher.prepare(outputs, []))


def tellings(stages: Sequence[str], database: Database, services: Services) -> list[Telling]:
    """What a worker of these stages runs: nothing, where none of them spends."""
    if not any(Cost in STAGES[name].outputs for name in stages):
        return []
    sources: list[Source] = [Embeddings(PostgresSpends(database), services)]
    if "complete" in stages:
        sources.append(Late(PostgresLateOutcomes(database), services))
    return [Telling(sources, services)]
