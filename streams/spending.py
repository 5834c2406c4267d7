"""Publishes cost events from their book: each is stored with what it tells, and told until the broker has it."""

from __future__ import annotations

import asyncio

import structlog

from processors.event import Recorded
from processors.spending.port import Spends
from schemas.errors import DependencyDownError, PoisonError, UnknownSchemaError
from schemas.records import Cost
from streams.dead_letters import safe_message
from streams.gate import Released
from streams.outputs import Publisher
from streams.producer import AUTHORIZATION
from streams.services import Services

# Between two looks at the table.
INTERVAL_S = 2.0
BATCH = 200
# How long another worker leaves what this one took.
HOLD_S = 30.0

log = structlog.get_logger(__name__)


class Telling:
    """A worker's part in telling what embeddings cost. Every worker of a stage that embeds runs one.

    An event is published with the bytes that were stored, so it is the same however often it is told.
    """

    def __init__(self, spends: Spends, services: Services) -> None:
        self._spends, self._services, self._publisher = spends, services, Publisher(services)

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
        untold = await self._spends.take(self._services.lane, limit=BATCH, hold_s=HOLD_S)
        if not untold:
            return 0
        self._services.failpoints.hit("after_spends_taken")
        outputs = [Recorded(cost, one.event) for one in untold if (cost := await self._decoded(one.event)) is not None]
        await self._services.producer.send(self._publisher.prepare(outputs, []))
        await self._spends.told(untold)
        return len(untold)

    async def _decoded(self, event: bytes) -> Cost | None:
        """The event; ``None`` for one that nobody can read, which its row then stands for."""
        codec = self._services.codec
        try:
            try:
                return codec.decode(event, Cost)
            except UnknownSchemaError as unknown:
                await codec.fetch(unknown.schema_id)
                return codec.decode(event, Cost)
        except PoisonError as error:
            log.error("the cost of an embedding can't be published", reason=safe_message(error))
            return None
