"""Deltas as complete publishes them, and chunks put together again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from processors.event import Incoming
from processors.filter.cleaning import clean
from processors.filter.policy import FilterPolicy
from schemas.ids import derive_id
from schemas.records import Chunk, Delta, Meta, Text
from streams.chunks import StreamText

ACCEPTED = datetime(2026, 1, 1, tzinfo=UTC)
CLOSING = 2**31 - 1
PROSE = "It was a quiet morning, and nobody had called yet. Then kim@example.com wrote, from 212-555-0187 or so. "


def delta(
    request_id: str, sequence: int, start: int, text: str | None, *, lane: str = "live", attempt: int = 0
) -> Delta:
    """A live delta."""
    meta = Meta(
        event_id=derive_id(lane, request_id, attempt, "delta", sequence),
        request_id=request_id,
        tenant="acme",
        lane=lane,
        causation_id=derive_id("enrichment", request_id),
        stage="complete",
        stage_version="1",
        accepted_at=ACCEPTED,
        control_offset=sequence,
    )
    inline = None if text is None else Text(inline=text)
    return Delta(meta=meta, attempt=attempt, sequence=sequence, start_char=start, text=inline, user="u1", session="s1")


def lives(request_id: str, text: str, *, every: int = 7, lane: str = "live", attempt: int = 0) -> list[Delta]:
    """The text in live deltas of so many characters."""
    starts = range(0, len(text), every)
    return [
        delta(request_id, number, start, text[start : start + every], lane=lane, attempt=attempt)
        for number, start in enumerate(starts)
    ]


def closing(request_id: str, text: str, *, lane: str = "live", attempt: int = 0, reason: str = "stop") -> Delta:
    """The delta that closes a stream: its whole text again."""
    return replace(delta(request_id, CLOSING, 0, text, lane=lane, attempt=attempt), final=True, finish_reason=reason)


def aborted(request_id: str, *, lane: str = "live", attempt: int = 0, code: str | None = None) -> Delta:
    """An attempt broke off; with a code, none follows."""
    sequence = CLOSING - 1 if code is None else CLOSING
    broken = replace(delta(request_id, sequence, 0, None, lane=lane, attempt=attempt), aborted=True)
    return broken if code is None else replace(broken, final=True, finish_reason=code)


def stream_of(request_id: str, text: str, *, every: int = 7, lane: str = "live") -> list[Delta]:
    """All deltas of a stream that went well."""
    return [*lives(request_id, text, every=every, lane=lane), closing(request_id, text, lane=lane)]


def arriving(record: Delta, *, partition: int = 0) -> Incoming[Delta]:
    """A delta as it is delivered."""
    return Incoming(record=record, meta=record.meta, raw=b"", appended_at=ACCEPTED, position=(partition, 0))


def cleaned(text: str) -> str:
    """The text as the filter shows it."""
    return clean(text, FilterPolicy().phone_regions).text


def joined(chunks: Iterable[Chunk]) -> StreamText:
    """The stream that a consumer makes of chunks."""
    stream = StreamText()
    for chunk in chunks:
        stream.add(chunk)
    return stream


def kinds(chunks: Sequence[Chunk]) -> list[str]:
    """The chunks' kinds, runs of text as one."""
    found: list[str] = []
    for chunk in chunks:
        if not (found and found[-1] == chunk.kind == "text"):
            found.append(chunk.kind)
    return found
