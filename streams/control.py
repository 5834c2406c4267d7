"""Follows the control topic from its first record: what is live now, and at which offset that was decided."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from processors.control import Cancel, Pausable, Pause
from processors.control_state import PAUSABLE, ControlState
from schemas.codec import Codec
from schemas.errors import DependencyDownError, PoisonError, UnknownSchemaError
from schemas.records import Control
from streams import security
from streams.metrics import Metrics
from streams.settings import KafkaSettings

RETRY_PAUSE_S = 1.0
POLL_TIMEOUT_MS = 500

log = structlog.get_logger(__name__)


class ControlFollower:
    """A ``ControlView`` fed by a consumer of its own, without a group: every worker reads every record.

    ``now`` is the database's time, by which cancels are forgotten that are older than ``kept``.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: str,
        codec: Codec,
        *,
        metrics: Metrics | None = None,
        now: Callable[[], datetime] | None = None,
        kept: timedelta | None = None,
    ) -> None:
        self._settings = settings
        self._partition = TopicPartition(topic, 0)
        self._codec = codec
        self._metrics = metrics or Metrics()
        self._state = ControlState(now, kept=kept)
        self._change = asyncio.Event()
        self._offset = -1
        self._consumer: AIOKafkaConsumer | None = None

    @property
    def offset(self) -> int:
        """Offset of the last control record known; -1 before the first."""
        return self._offset

    def current_prompt(self, name: str) -> str | None:
        """The version of this prompt that is live now."""
        return self._state.current_prompt(name)

    def paused(self, kind: Pausable, name: str) -> bool:
        """Whether an operator paused this stage, route or tenant."""
        return self._state.paused(kind, name)

    def pauses(self) -> Sequence[Pause]:
        """All that is paused now, oldest first."""
        return self._state.pauses()

    def cancelled(self, tenant: str, request_id: str) -> bool:
        """Whether this request was cancelled."""
        return self._state.cancelled(tenant, request_id)

    def cancels(self, after: int = -1) -> Sequence[Cancel]:
        """The cancels that still matter from records above the offset ``after``, oldest first."""
        return self._state.cancels(after)

    async def until_cancelled(self, tenant: str, request_id: str) -> None:
        """Return when this request is cancelled; blocks for ever otherwise."""
        while not self.cancelled(tenant, request_id):
            await self.changed()

    async def changed(self) -> None:
        """Return at the next control record."""
        await self._change.wait()

    async def start(self) -> None:
        """Read the topic from its first record to its present end. Blocks on the broker.

        Raises ``DependencyDownError`` while the broker is away; call it again then.
        """
        try:
            if self._consumer is None:
                consumer = AIOKafkaConsumer(**security.aiokafka(self._settings), enable_auto_commit=False)
                await consumer.start()
                self._consumer = consumer
            consumer = self._consumer
            consumer.assign([self._partition])
            consumer.seek(self._partition, self._offset + 1)
            end = (await consumer.end_offsets([self._partition]))[self._partition]
            while await consumer.position(self._partition) < end:
                await self._poll()
        except (KafkaError, OSError) as error:
            raise DependencyDownError("kafka", type(error).__name__) from error

    async def run(self) -> None:
        """Follow the topic for ever."""
        while True:
            try:
                await self._poll()
            except (KafkaError, OSError) as error:
                log.warning("control can't be read and will be again", error=type(error).__name__)
                await asyncio.sleep(RETRY_PAUSE_S)

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def _poll(self) -> None:
        assert self._consumer is not None
        batches = await self._consumer.getmany(self._partition, timeout_ms=POLL_TIMEOUT_MS)
        for message in batches.get(self._partition, ()):
            outcome = await self._apply(message)
            self._metrics.control_records.labels(outcome).inc()
            self._offset = message.offset
            self._change.set()
            self._change = asyncio.Event()
        self._state.forget()
        self._show()

    async def _apply(self, message: Any) -> str:
        """Take one record in. Whatever is wrong with it is no reason to stop: it would be read again."""
        at = datetime.fromtimestamp((message.timestamp or 0) / 1000, UTC)
        try:
            record = await self._decode(message.value or b"")
            return "applied" if self._state.apply(record, offset=message.offset, at=at) else "ignored"
        except PoisonError as error:
            reason = str(error)
        except Exception as error:
            reason = type(error).__name__
        log.warning("a control record is passed over", offset=message.offset, reason=reason)
        return "malformed"

    def _show(self) -> None:
        counts = Counter(pause.kind for pause in self._state.pauses())
        for kind in PAUSABLE:
            self._metrics.paused.labels(kind).set(counts[kind])

    async def _decode(self, value: bytes) -> Control:
        while True:
            try:
                return self._codec.decode(value, Control)
            except UnknownSchemaError as error:
                try:
                    await self._codec.fetch(error.schema_id)
                except DependencyDownError:
                    await asyncio.sleep(RETRY_PAUSE_S)
