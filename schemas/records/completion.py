"""Generated from `schemas/avro/completion.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta, Text
from schemas.records.done import Admission, Attempt, Grounding, Usage
from schemas.records.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredStep(Record):
    """What was found about one reply."""

    AVRO_NAME: ClassVar[str] = "headrace.StructuredStep"

    # Number of the attempt that brought it, from 0
    attempt: int = 0
    # valid, repaired, or wrong
    outcome: str = ""
    # What was wrong with it as the model wrote it: invalid_json or schema_mismatch;
    # invalid_output where that is no longer known
    code: str | None = None
    # The place and the rule, without text of the model
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Structured(Record):
    """How replies were checked that had to be JSON."""

    AVRO_NAME: ClassVar[str] = "headrace.Structured"

    # Form that was asked for: json_object or json_schema
    wanted: str = ""
    # Of the text as it stands here: valid as the model wrote it, or repaired; wrong where
    # a later reply was not checked
    outcome: str = ""
    # Every reply that was checked, in order
    steps: tuple[StructuredStep, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeStep(Record):
    """What was found about one reply."""

    AVRO_NAME: ClassVar[str] = "headrace.CascadeStep"

    # Number of the attempt that brought it, from 0
    attempt: int = 0
    # Deployment that wrote it
    deployment: str = ""
    # passed, escalated or stood
    outcome: str = ""
    # Check that failed: refusal, format or groundedness
    check: str | None = None
    # What it found, e.g. declined, phrase, cut_off, too_short, invalid_output,
    # ungrounded; or why groundedness could not be told
    code: str | None = None
    # Figure that was found: groundedness from 0 to 1, or a number of words
    value: float | None = None
    # Least figure that passes
    threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade(Record):
    """How replies of a cheap model were checked before a stronger one was asked."""

    AVRO_NAME: ClassVar[str] = "headrace.Cascade"

    # kept: the first model's reply passed its checks; escalated: a stronger model wrote
    # this; stood: a check failed and the reply stands all the same; unchecked: the reply
    # is another deployment's
    outcome: str = ""
    # Why a reply stands whose check failed: time, budget, or unavailable where no
    # stronger model answered
    reason: str | None = None
    # Every reply that was checked, in order
    steps: tuple[CascadeStep, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutSample(Record):
    """One of the calls. Its text is in the journal."""

    AVRO_NAME: ClassVar[str] = "headrace.FanOutSample"

    # From 0; the ordinal of its call in the journal
    number: int = 0
    # Its call in the journal
    call_id: str = ""
    # answered or failed
    outcome: str = ""
    # Code of its failure
    code: str | None = None
    # Deployment that answered, or was asked last
    deployment: str = ""
    # Its model
    model: str = ""
    # Why its text ended
    finish_reason: str = ""
    # Whether its text is in the answer
    used: bool = False
    # Number of the first sample that voted the same; null where it had no vote
    group: int | None = None
    # Its score, 0 to 1, where the best was chosen
    score: float | None = None
    # Ids of its attempts
    attempts: tuple[str, ...] = ()
    # What they cost (US dollars)
    cost_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut(Record):
    """The calls whose replies were made into one."""

    AVRO_NAME: ClassVar[str] = "headrace.FanOut"

    # vote, best or join
    aggregate: str = ""
    # Field of the JSON that was voted on
    field: str | None = None
    # What the best was chosen by: groundedness or relevance
    scorer: str | None = None
    # How many calls had to be answered
    needed: int = 0
    # How many were
    answered: int = 0
    # Number of the sample whose text this is, from 0; null where texts were joined
    chosen: int | None = None
    # Share of the answered calls that voted for it, 0 to 1
    agreement: float | None = None
    # Every call, in order
    samples: tuple[FanOutSample, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hedge(Record):
    """A second call that was sent while the first was open."""

    AVRO_NAME: ClassVar[str] = "headrace.Hedge"

    # Number of the attempt that was sent beside the first, from 0
    attempt: int = 0
    # Number of the attempt whose reply came first and is taken
    won: int = 0
    # How long the first was open without any output when the second was sent, in
    # milliseconds
    after_ms: float = 0
    # Recent calls of the route from which that wait was taken; 0: there were too few, and
    # it is the setting's
    samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Complexity(Record):
    """How hard the request was taken to be, and why."""

    AVRO_NAME: ClassVar[str] = "headrace.Complexity"

    # simple, balanced or complex
    name: str = ""
    # Features that decided: reasoning_effort, prompt_tokens, question or spread
    reasons: tuple[str, ...] = ()
    # What the route's settings have for the class: route/NAME, tag/TAG or the names of
    # deployments, several with commas; empty where the class stays at the route
    target: str = ""
    # Whether the request named a model, which wins over the class
    requested: bool = False
    # Estimated tokens of what was put before the model
    prompt_tokens: int = 0
    # Type of the question: lookup, open, reasoning, code or analysis
    question: str = ""
    # Effort that the request asked for
    reasoning_effort: str | None = None
    # Passages that were put before the model
    passages: int = 0
    # Best less worst score of the passages; null with fewer than two
    spread: float | None = None


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
