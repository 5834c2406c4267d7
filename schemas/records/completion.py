"""Generated from `schemas/avro/completion.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta, Text
from schemas.records.done import Admission, Attempt, Cascade, Complexity, FanOut, Grounding, Hedge, Structured, Usage
from schemas.records.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion(Record):
    """A model's reply, as recorded in the journal."""

    AVRO_NAME: ClassVar[str] = "headrace.Completion"

    # Identity and cause
    meta: Meta
    # The request as it was published
    request: Request
    # What admission decided
    admission: Admission
    # What was put before the model
    grounding: Grounding
    # The model's text, unfiltered
    text: Text | None = None
    # Tools the model asked to call, as the provider's JSON array
    tool_calls_json: Text | None = None
    # The provider's own refusal text, unfiltered
    refusal: Text | None = None
    # Why generation ended: stop, length, tool_calls, content_filter
    finish_reason: str = ""
    # Model that answered, as the provider named it
    model: str = ""
    # Provider, in OpenTelemetry's naming
    provider: str = ""
    # Deployment that answered
    deployment: str = ""
    # Provider's id of the response
    response_id: str | None = None
    # Provider's fingerprint of the backend
    system_fingerprint: str | None = None
    # Log probabilities with their tokens, as the provider's JSON
    logprobs_json: Text | None = None
    # Tokens of the call that answered
    usage: Usage = field(default_factory=Usage)
    # Cost of all attempts (US dollars)
    cost_usd: Decimal = Decimal("0")
    # What a reused response would have cost (US dollars)
    avoided_cost_usd: Decimal = Decimal("0")
    # The cost holds an estimate or an upper bound
    estimated: bool = False
    # model, cache-exact, cache-semantic, journal, template
    served_by: str = "model"
    # Event whose response was reused
    source_event_id: str | None = None
    # Every attempt, in order
    attempts: tuple[Attempt, ...] = ()
    # sha256 of what was sent, as hex
    input_hash: str = ""
    # From sending to the last byte of the call that answered, in milliseconds
    duration_ms: float | None = None
    # From sending to the first token, in milliseconds
    first_token_ms: float | None = None
    # Its text went to deltas too; false for a request that wants a stream: the filter
    # writes its chunks
    streamed: bool = False
    # Checks of a reply that had to be JSON; null where none was made
    structured: Structured | None = None
    # Checks of the replies of a route with a cascade; null on any other route
    cascade: Cascade | None = None
    # The calls behind the answer of a route with a fan-out; null on any other route
    fan_out: FanOut | None = None
    # The second call that was sent while the first was open; null where there was none
    hedge: Hedge | None = None
    # How hard the request was taken to be; null on a route without rules for that
    complexity: Complexity | None = None
