"""Generated from `schemas/avro/delta.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta(Record):
    """A stretch of a streamed completion, unfiltered. Internal."""

    AVRO_NAME: ClassVar[str] = "headrace.Delta"

    # Identity and cause
    meta: Meta
    # Attempt that streams, from 0
    attempt: int = 0
    # Delta's number within the attempt, from 0
    sequence: int = 0
    # First character in the attempt's text
    start_char: int = 0
    # The stretch; null on a last delta that adds none
    text: Text | None = None
    # The last delta of its attempt
    final: bool = False
    # Why generation ended; set on the last delta. After a failure the failure's code
    finish_reason: str | None = None
    # The attempt broke off
    aborted: bool = False
    # Since the call was sent, in milliseconds
    elapsed_ms: float | None = None
    # User on whose behalf it was asked
    user: str = ""
    # Conversation it belongs to
    session: str = ""
    # Route that the request takes
    route: str = ""
    # Product feature that asked
    feature: str = ""
    # Team that asked
    team: str = ""
