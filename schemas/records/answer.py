"""Generated from `schemas/avro/answer.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Message, Meta, Text
from schemas.records.done import Attempt, Failure, Passage, Usage, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation(Record):
    """A place in the answer that names a passage."""

    AVRO_NAME: ClassVar[str] = "headrace.Citation"

    # Passage's number in the prompt
    number: int = 0
    # Passage cited
    passage_id: str
    # Document of the passage
    document_id: str
    # Namespace of the document
    namespace: str = ""
    # Document's title
    title: str = ""
    # Where the document came from
    uri: str = ""
    # sha256 of the passage's text, as hex
    digest: str = ""
    # Cosine similarity of the passage to the query, -1 to 1
    score: float = 0.0
    # First character of the mark in the answer; null when the answer has no mark for it
    start_char: int | None = None
    # One past the mark's last character
    end_char: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing(Record):
    """Where the time of a request went."""

    AVRO_NAME: ClassVar[str] = "headrace.Timing"

    # Stage
    stage: str
    # From the event's append to the start of its processing, in milliseconds
    waited_ms: float = 0.0
    # Processing in the stage, in milliseconds
    service_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Record):
    """The final answer to a request: exactly one for each revision."""

    AVRO_NAME: ClassVar[str] = "headrace.Answer"

    # Identity and cause
    meta: Meta
    # answered, rejected, blocked, failed or expired
    status: str
    # 0 for the first; only a backfill or a re-driven dead letter opens another
    revision: int = 0
    # event_id of the answer that this revision replaces
    supersedes: str | None = None
    # Request whose answer this is a copy of
    duplicate_of: str | None = None
    # Team that pays
    team: str = ""
    # User on whose behalf it was asked
    user: str = ""
    # Conversation it belongs to
    session: str = ""
    # Product feature that asked
    feature: str = ""
    # Tenant's tier
    tier: str = ""
    # Priority it ran at
    priority: str = ""
    # Arm of a running experiment
    arm: str = ""
    # Key the producer sent
    idempotency_key: str | None = None
    # The producer's own labels
    metadata: Mapping[str, str] = field(default_factory=dict)
    # The question as it was answered
    question: Text | None = None
    # Messages as they were sent to the model
    messages: tuple[Message, ...] = ()
    # The answer, as the filter let it pass; null unless answered
    text: Text | None = None
    # The model's own refusal, as the filter let it pass
    refusal: Text | None = None
    # Tools the model asked to call, as the provider's JSON array
    tool_calls_json: Text | None = None
    # Passages that the answer cites
    citations: tuple[Citation, ...] = ()
    # All passages that the model was shown
    passages: tuple[Passage, ...] = ()
    # Log probabilities of the text's tokens, as the provider's JSON; null where none were
    # asked for, and where the text is not as the model wrote it
    logprobs_json: Text | None = None
    # Why generation ended
    finish_reason: str = ""
    # text, json_object or json_schema
    response_format: str = "text"
    # Route it took
    route: str = ""
    # Model that answered, as the provider named it
    model: str = ""
    # Provider, in OpenTelemetry's naming
    provider: str = ""
    # Deployment that answered
    deployment: str = ""
    # Provider's id of the response
    response_id: str | None = None
    # Template's version, as name@n
    prompt_version: str = ""
    # sha256 of the template, as hex
    prompt_digest: str = ""
    # Version of the index that was searched
    index_version: str = ""
    # Model that embedded the query
    embedding_model: str = ""
    # Version of the filter's policy
    policy_version: str = ""
    # Tokens of the call that answered
    usage: Usage = field(default_factory=Usage)
    # Cost of all attempts (US dollars)
    cost_usd: Decimal = Decimal("0")
    # What a reused response would have cost (US dollars)
    avoided_cost_usd: Decimal = Decimal("0")
    # Usage or cost holds an estimate or an upper bound
    estimated: bool = False
    # model, cache-exact, cache-semantic, journal, template; none when no model answered
    served_by: str = "none"
    # Event whose response was reused
    source_event_id: str | None = None
    # Every attempt, in order
    attempts: tuple[Attempt, ...] = ()
    # Where the time went, by stage in order
    timings: tuple[Timing, ...] = ()
    # What every guard found and did, admission's included
    verdicts: tuple[Verdict, ...] = ()
    # Why it was not answered; null when answered
    failure: Failure | None = None
    # Database time when the answer became final (UTC microseconds)
    decided_at: datetime | None = None
