"""Generated from `schemas/avro/feedback.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback(Record):
    """What a user thought of an answer. Written by consumers."""

    AVRO_NAME: ClassVar[str] = "headrace.Feedback"

    # Identity and cause
    meta: Meta
    # Answer it is about; null for the request's latest
    answer_event_id: str | None = None
    # 1 (worst) to 5 (best)
    rating: int | None = None
    # In the user's words
    comment: Text | None = None
    # What the answer should have been
    correction: Text | None = None
    # User who gave it
    user: str = ""
    # Conversation it belongs to
    session: str = ""
    # Where it was given
    channel: str = ""
    # Reasons ticked
    labels: tuple[str, ...] = ()
    # The consumer's own labels
    metadata: Mapping[str, str] = field(default_factory=dict)
