"""Generated from `schemas/avro/evaluation.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Score(Record):
    """One score of an answer."""

    AVRO_NAME: ClassVar[str] = "headrace.Score"

    # What was scored, e.g. groundedness
    name: str
    # Scorer's name
    scorer: str
    # Scorer's version
    scorer_version: str
    # Score, 0 to 1; null when it could not be scored
    value: float | None = None
    # Why, or why not
    explanation: Text | None = None
    # Code of the error, when it could not be scored
    failure_code: str | None = None
    # Model that judged; empty for a scorer without one
    model: str = ""
    # Cost of the scoring call (US dollars)
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation(Record):
    """Scores of a sampled answer."""

    AVRO_NAME: ClassVar[str] = "headrace.Evaluation"

    # Identity and cause
    meta: Meta
    # Answer that was scored
    answer_event_id: str
    # Revision of the answer
    revision: int = 0
    # The scores
    scores: tuple[Score, ...] = ()
    # Probability with which this answer was sampled, 0 to 1
    sampling_probability: float = 1.0
    # Rule that chose it: rate, route:<name>, tenant:<name>, or feedback
    sampled_by: str = ""
    # Team that pays
    team: str = ""
    # User on whose behalf it was asked
    user: str = ""
    # Conversation it belongs to
    session: str = ""
    # Product feature that asked
    feature: str = ""
    # Model that answered
    model: str = ""
    # Route it took
    route: str = ""
    # Template's version, as name@n
    prompt_version: str = ""
    # Version of the index
    index_version: str = ""
    # Arm of a running experiment
    arm: str = ""
    # Time to score, in milliseconds
    duration_ms: float | None = None
    # Feedback that these scores come from; null for scores of our own
    feedback_event_id: str | None = None
    # Status of the answer: answered, rejected, blocked, failed or expired
    answer_status: str = ""
