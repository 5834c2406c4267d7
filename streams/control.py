"""Follows the control topic from its first record: what is live now, and at which offset that was decided."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from processors.control import Pausable
from schemas.codec import Codec
from schemas.errors import DependencyDownError, PoisonError, UnknownSchemaError
from schemas.records import Control
from streams.settings import KafkaSettings

RETRY_PAUSE_S = 1.0
POLL_TIMEOUT_MS = 500

log = structlog.get_logger(__name__)


class ControlFollower:
    """A ``ControlView`` fed by a consumer of its own, without a group: every worker reads every record."""

    def __init__(self, settings: KafkaSettings, topic: str, codec: Codec) -> None:
        self._settings = settings
        self._partition = TopicPartition(topic, 0)
        self._codec = codec
        self._prompts: dict[str, str] = {}
        self._paused: set[tuple[str, str]] = set()
        self._cancelled: set[tuple[str, str]] = set()
        self._change = asyncio.Event()
        self._offset = -1
        self._consumer: AIOKafkaConsumer | None = None

    @property
    def offset(self) -> int:
        """Offset of the last control record known; -1 before the first."""
        return self._offset

    def current_prompt(self, name: str) -> str | None:
        """The version of this prompt that is live now."""
        return self._prompts.get(name)

    def paused(self, kind: Pausable, name: str) -> bool:
        """Whether an operator paused this stage, route or tenant."""
        return (kind, name) in self._paused

    def cancelled(self, tenant: str, request_id: str) -> bool:
        """Whether this request was cancelled."""
        return (tenant, request_id) in self._cancelled

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
                consumer = AIOKafkaConsumer(bootstrap_servers=self._settings.bootstrap, enable_auto_commit=False)
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
            await self._apply(message)
            self._offset = message.offset
            self._change.set()
            self._change = asyncio.Event()

    async def _apply(self, message: Any) -> None:
        try:
            record = await self._decode(message.value or b"")
        except PoisonError as error:
            log.warning("a control record is passed over", offset=message.offset, reason=str(error))
            return
        if record.kind == "prompt":
            if record.removed:
                self._prompts.pop(record.name, None)
            else:
                self._prompts[record.name] = record.version

    async def _decode(self, value: bytes) -> Control:
        while True:
            try:
                return self._codec.decode(value, Control)
            except UnknownSchemaError as error:
                try:
                    await self._codec.fetch(error.schema_id)
                except DependencyDownError:
                    await asyncio.sleep(RETRY_PAUSE_S)
