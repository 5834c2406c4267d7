"""A dead letter without its bytes: what it says about itself, in a size that a list of a million can bear."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from streams.dead_letters import CONNECT, OURS
from streams.headers import Headers
from streams.opened import Opened
from streams.reading import Entry
from streams.redriving import REDRIVE, RUN, value_digest

# Written by the worker beside the original headers, and by an earlier retry.
_ADDED = (CONNECT, OURS, REDRIVE)
VALUE_BYTES = f"{OURS}value_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the event stood when it failed."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter. ``key`` is the same for copies of one letter, which a crash at the wrong moment leaves."""

    partition: int
    offset: int
    time: datetime
    key: str
    source: Source
    stage: str
    error_class: str
    error: str
    message: str
    attempts: int
    first_failed_at: datetime | None
    tenant: str
    request_id: str
    # When its request was accepted; None where the letter does not say.
    accepted_at: datetime | None
    # Full name of the record; None where the bytes are none.
    record: str | None
    # Of the event: a letter may hold none of them, when its event was too large.
    bytes: int
    has_value: bool
    digest: str
    # The run of the retry that failed again; empty for a first failure.
    run: str

    @property
    def id(self) -> str:
        """``<partition>-<offset>`` on the topic of dead letters."""
        return f"{self.partition}-{self.offset}"

    @property
    def whole(self) -> bool:
        """Whether the event's bytes are in the letter."""
        return self.bytes == 0 or self.has_value


def letter_of(opened: Opened) -> Letter:
    """The letter in an opened entry of the topic of dead letters."""
    entry, found = opened.entry, opened.letter
    assert found is not None
    source = Source(topic=found.source_topic, partition=found.source_partition, offset=found.source_offset)
    headers = _texts(entry)
    run = headers.get(REDRIVE, "")
    large = headers.get(VALUE_BYTES, "")
    meta = opened.meta
    digest = value_digest(entry.value)
    return Letter(
        partition=entry.partition,
        offset=entry.offset,
        time=entry.time,
        key=_key(source, found.failed_stage, digest),
        source=source,
        stage=found.failed_stage,
        error_class=found.error_class,
        error=found.error_type,
        message=found.error_message,
        attempts=found.attempts,
        first_failed_at=found.first_failure_at,
        tenant=meta.tenant if meta else "",
        request_id=meta.request_id if meta else found.meta.request_id,
        accepted_at=meta.accepted_at if meta else None,
        record=opened.name,
        bytes=int(large) if large.isascii() and large.isdigit() else entry.size,
        has_value=entry.value is not None,
        digest=digest,
        run=run if RUN.fullmatch(run) else "",
    )


def original_headers(entry: Entry) -> Headers:
    """The headers that the event had before it failed."""
    return [(name, value) for name, value in entry.headers if value is not None and not name.startswith(_ADDED)]


def _key(source: Source, stage: str, digest: str) -> str:
    # The bytes are part of it, because a topic that was deleted and made again counts its offsets from 0.
    parts = (source.topic, source.partition, source.offset, stage, digest)
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def _texts(entry: Entry) -> dict[str, str]:
    return {name: (value or b"").decode("utf-8", "replace") for name, value in entry.headers}
