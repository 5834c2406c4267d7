"""From a message on a topic to a typed event."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from processors.claimcheck import MARK
from processors.event import Incoming
from schemas.errors import DependencyDownError, UndecodableError, UnknownSchemaError
from schemas.record import Record
from schemas.records import Document, Meta, Request
from streams.headers import load_timings
from streams.redriving import redrive_of, redriven
from streams.removals import removal_of
from streams.services import Services
from streams.stages import Input
from streams.topics import tenant_of

Message = Any  # faust.types.ConsumerMessage, which is untyped

# A schema id that the registry denied is asked for once more after this long: its registration may be under way.
DENIAL_PATIENCE_S = 30.0
# Postgres is asked again after this long where it has no probe.
UNPROBED_PAUSE_S = 1.0
# Ids that anybody may make up are not remembered without bound.
MOST_DENIED = 1_000


class Decoder:
    """Decodes the events of one input. An id that the codec does not hold is asked of the registry."""

    def __init__(self, source: Input, services: Services, *, denial_patience_s: float = DENIAL_PATIENCE_S) -> None:
        self._source = source
        self._services = services
        self._patience_s = denial_patience_s
        # When the registry first denied an id.
        self._denied: dict[int, float] = {}

    async def decode(self, message: Message) -> Incoming[Record]:
        """The event of a message.

        Blocks only for an unknown schema id, on the registry, and on Postgres for a dead letter sent once more and for
        texts that were too large for the topic: for as long as they are away. ``raw`` has these texts too.
        Raises ``PoisonError`` for what can't be decoded.
        """
        redrive = await redrive_of(message, self._services)
        value: bytes | None = message.value
        appended_at = datetime.fromtimestamp(message.timestamp or 0.0, UTC)
        if value is None:
            record: Record = self._tombstone(message)
            value = b""
        else:
            record = await self._record(value)
        meta: Meta = record.meta  # type: ignore[attr-defined]
        if meta.accepted_at is None:
            meta = replace(meta, accepted_at=appended_at)
        if isinstance(record, Request):
            # A producer has no say in it. Who may write to a tenant's topic asks for that tenant, whatever he says.
            owner = tenant_of(message.topic, self._services.prefix, self._services.lane)
            meta = replace(meta, run="", tenant=owner or meta.tenant)
        record, value = await self._whole(record, value, meta.tenant)
        incoming = Incoming(
            record=record,
            meta=meta,
            raw=value,
            appended_at=appended_at,
            control_offset=self._services.control.offset,
            # A producer has no timings to tell.
            timings=() if self._source.kind == "requests" else load_timings(message.headers),
            position=(message.partition, message.offset),
        )
        return incoming if redrive is None else redriven(incoming, redrive, self._services)

    async def _record(self, value: bytes) -> Record:
        while True:
            try:
                return self._services.codec.decode(value, self._source.record)
            except UnknownSchemaError as error:
                await self._fetch(error)

    async def _whole(self, record: Record, value: bytes, tenant: str) -> tuple[Record, bytes]:
        """The event with the texts that it refers to, and its bytes with them."""
        claims = self._services.claims
        while claims is not None and MARK in value:
            await self._services.gate.wait(("postgres",))
            try:
                whole = await claims.whole(record, value, tenant)
            except DependencyDownError as error:
                if not self._services.gate.report(error):
                    await asyncio.sleep(UNPROBED_PAUSE_S)
            else:
                return whole, value if whole is record else self._services.codec.encode(whole)
        return record, value

    async def _fetch(self, unknown: UnknownSchemaError) -> None:
        """Return when the codec may hold the id. Raises ``UnknownSchemaError`` when it was denied twice."""
        await self._services.gate.wait(("registry",))
        try:
            await self._services.codec.fetch(unknown.schema_id)
        except DependencyDownError as error:
            self._services.gate.report(error)
        except UnknownSchemaError:
            if len(self._denied) > MOST_DENIED:
                self._denied.clear()
            first = self._denied.setdefault(unknown.schema_id, time.monotonic())
            left = first + self._patience_s - time.monotonic()
            if left <= 0:
                raise
            await asyncio.sleep(left)
        else:
            self._denied.pop(unknown.schema_id, None)

    def _tombstone(self, message: Message) -> Document:
        if not self._source.tombstones:
            raise UndecodableError("the event has a null value; this topic has no tombstones")
        return removal_of(
            message.key,
            message.headers,
            partition=message.partition,
            offset=message.offset,
            lane=self._services.lane,
        )
