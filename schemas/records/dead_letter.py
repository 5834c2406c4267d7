"""Generated from `schemas/avro/dead_letter.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta


@dataclass(frozen=True, slots=True, kw_only=True)
class Header(Record):
    """A Kafka header; a key may come several times."""

    AVRO_NAME: ClassVar[str] = "headrace.Header"

    # Header's key
    key: str
    # Header's value, as it was
    value: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Record):
    """A dead letter read as a record; on its topic it is the original bytes with headers."""

    AVRO_NAME: ClassVar[str] = "headrace.DeadLetter"

    # Identity and cause
    meta: Meta
    # Topic it was read from
    source_topic: str = ""
    # Partition it was read from
    source_partition: int = 0
    # Offset it was read at
    source_offset: int = 0
    # Stage that could not process it
    failed_stage: str = ""
    # Class of the error
    error_class: str = ""
    # Name of the exception
    error_type: str = ""
    # What was wrong, without prompt text
    error_message: str = ""
    # Where it was raised, without values
    stacktrace: str = ""
    # How often it was tried
    attempts: int = 0
    # When it first failed (UTC microseconds)
    first_failure_at: datetime | None = None
    # Original key
    key: bytes | None = None
    # Original value
    value: bytes | None = None
    # Original headers, in order
    headers: tuple[Header, ...] = ()
