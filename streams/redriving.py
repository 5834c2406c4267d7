"""Dead letters sent through their stage once more, as the stage sees them.

A header names the run; it is believed only where the run's row names this lane, this topic and these bytes. So a
producer that sends the header has no more than the event that the operator sent anyway: the same run, the same ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import structlog

from processors.event import Incoming
from processors.redrive import Redrive
from schemas.errors import DependencyDownError
from schemas.record import Record
from schemas.records import Admitted, Completion, Document, Enrichment, Request
from streams.headers import header
from streams.services import Services

Message = Any  # faust.types.ConsumerMessage, which is untyped

REDRIVE = "headrace-redrive"
RUN = re.compile(r"redrive-[0-9a-f]{16}-[0-9]{1,6}")
# Without a probe the database is asked again after this long.
PAUSE_S = 1.0

log = structlog.get_logger(__name__)


def value_digest(value: bytes | None) -> str:
    """sha256 of an event's bytes, as hex; empty for a null value."""
    return "" if value is None else hashlib.sha256(value).hexdigest()


async def redrive_of(message: Message, services: Services) -> Redrive | None:
    """The re-drive that brought this message. Without the header it costs nothing.

    With it, waits for as long as Postgres is away. Raises ``Released`` when the worker stops meanwhile.
    """
    run = (header(message.headers, REDRIVE) or b"")[:64].decode("ascii", "replace")
    if not RUN.fullmatch(run):
        return None
    found = await _find(run, services)
    expected = (services.lane, message.topic, value_digest(message.value))
    if found is None or (found.lane, found.topic, found.value_digest) != expected:
        log.warning("a re-drive that nobody began is passed over", topic=message.topic, offset=message.offset)
        return None
    return found


async def _find(run: str, services: Services) -> Redrive | None:
    while True:
        await services.gate.wait(("postgres",))
        try:
            return await services.redrives.find(run)
        except DependencyDownError as error:
            if not services.gate.report(error):
                await asyncio.sleep(PAUSE_S)


def redriven(incoming: Incoming[Record], redrive: Redrive, services: Services) -> Incoming[Record]:
    """The event under its re-drive's run, with a time to live that begins at the retry.

    The run goes where it leads to an answer: into the meta of requests and of what becomes of them. The bytes change
    with it, because the journal keeps them as a call's input. A document keeps its place among its versions. What
    else is sent once more (costs, answers to be scored) stays what it was, and its own id makes it harmless.
    """
    record = incoming.record
    if isinstance(record, Request):
        return replace(incoming, meta=replace(incoming.meta, run=redrive.run), redriven_at=redrive.created_at)
    if isinstance(record, Admitted | Enrichment | Completion):
        expires_at = record.admission.expires_at and redrive.created_at + timedelta(milliseconds=record.request.ttl_ms)
        changed = replace(
            record,
            meta=replace(record.meta, run=redrive.run),
            admission=replace(record.admission, expires_at=expires_at),
        )
        return replace(
            incoming,
            record=cast("Record", changed),
            raw=services.codec.encode(changed),
            meta=replace(incoming.meta, run=redrive.run),
            redriven_at=redrive.created_at,
        )
    if isinstance(record, Document):
        return replace(
            incoming,
            position=(redrive.source_partition, redrive.source_offset),
            appended_at=redrive.first_failed_at or incoming.appended_at,
        )
    return incoming
