"""Generated from `schemas/avro/chunk.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta, Text
from schemas.records.done import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Record):
    """A stretch of a streamed answer that the filter has cleared. Public."""

    AVRO_NAME: ClassVar[str] = "headrace.Chunk"

    # Identity and cause
    meta: Meta
    # text, restart, end or failed
    kind: str = "text"
    # Attempt that the text belongs to; a restart opens the next one
    attempt: int = 0
    # Chunk's number within the attempt, from 0
    sequence: int = 0
    # First character in the attempt's text
    start_char: int = 0
    # The stretch; null for restart, end and failed
    text: Text | None = None
    # Why generation ended; set on end
    finish_reason: str | None = None
    # Why the stream failed
    failure: Failure | None = None
    # User on whose behalf it was asked
    user: str = ""
    # Conversation it belongs to
    session: str = ""
