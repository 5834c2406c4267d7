"""Generated from `schemas/avro/*.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Message, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Span(Record):
    """A stretch of a text."""

    AVRO_NAME: ClassVar[str] = "headrace.Span"

    # What was found there
    kind: str
    # First character, before any change
    start_char: int = 0
    # One past the last character
    end_char: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    """What one guard found and did."""

    AVRO_NAME: ClassVar[str] = "headrace.Verdict"

    # Guard's name
    guard: str
    # Guard's version
    version: str = ""
    # Stage that ran it
    stage: str = ""
    # pass, changed, blocked or failed
    outcome: str
    # What was found, e.g. email, card
    category: str | None = None
    # How often it was found
    count: int = 0
    # Guard's score, where it has one, 0 to 1
    score: float | None = None
    # Where, without the text itself
    spans: tuple[Span, ...] = ()
    # What was done, without the text itself
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission(Record):
    """What admission decided."""

    AVRO_NAME: ClassVar[str] = "headrace.Admission"

    # Route that the request takes
    route: str = ""
    # Tenant's tier as settings have it
    tier: str = ""
    # high, normal or low
    priority: str = "normal"
    # When the request's ttl ends, by the database's clock (UTC microseconds)
    expires_at: datetime | None = None
    # sha256 of what was asked, as hex; the same for the same request
    body_hash: str = ""
    # Request whose answer this one copies, under the same idempotency key
    duplicate_of: str | None = None
    # Version of the policy that admitted it
    policy_version: str = ""
    # Arm of a running experiment; empty for none
    arm: str = ""
    # What admission's guards found
    verdicts: tuple[Verdict, ...] = ()


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
class Passage(Record):
    """A retrieved passage as it was shown to the model."""

    AVRO_NAME: ClassVar[str] = "headrace.Passage"

    # Id of the passage
    passage_id: str
    # Document it was cut from
    document_id: str
    # Namespace of the document
    namespace: str
    # Number under which the prompt shows it, from 1
    number: int = 0
    # Document's title
    title: str = ""
    # Where the document came from
    uri: str = ""
    # sha256 of the passage's text, as hex
    digest: str
    # sha256 of the document's body, as hex
    document_digest: str = ""
    # Cosine similarity to the query, -1 to 1
    score: float
    # The passage
    text: Text
    # First character in the document
    start_char: int = 0
    # One past the last character in the document
    end_char: int = 0
    # Cut to fit the context window
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Record):
    """Tokens of a call, as the provider counted them unless estimated."""

    AVRO_NAME: ClassVar[str] = "headrace.Usage"

    # Tokens sent
    prompt_tokens: int = 0
    # Tokens generated, reasoning included
    completion_tokens: int = 0
    # Of the tokens sent, those read from the provider's cache
    cached_prompt_tokens: int = 0
    # Of the tokens sent, those written to the provider's cache
    cache_write_tokens: int = 0
    # Of the tokens generated, those spent on reasoning
    reasoning_tokens: int = 0
    # Counted by us because the provider gave no usable figure
    estimated: bool = False
    # Of the tokens, those that may have a price of their own, and what is billed beside
    # them, by the price library's names, e.g. input_audio_tokens, output_image_tokens,
    # cache_write_1h_tokens, web_searches
    details: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt(Record):
    """One call to a provider as the journal booked it."""

    AVRO_NAME: ClassVar[str] = "headrace.Attempt"

    # UUIDv5 of the call's key and the attempt's ordinal; also the id of its cost event
    attempt_id: str
    # What the call was for: completion, judge, embedding, rewrite
    purpose: str = ""
    # Attempt's number within the call, from 0
    ordinal: int = 0
    # Deployment called
    deployment: str = ""
    # Provider, in OpenTelemetry's naming
    provider: str = ""
    # Model asked for
    model: str = ""
    # Provider's id of the response, to reconcile with its invoice
    response_id: str | None = None
    # done, failed or unknown
    state: str
    # Class of the error, for failed and unknown
    error_class: str | None = None
    # Code of the error, e.g. timeout, http_429
    error_code: str | None = None
    # Status of the provider's reply
    http_status: int | None = None
    # Database time when the attempt was committed to the journal (UTC microseconds)
    started_at: datetime | None = None
    # From sending to the last byte, in milliseconds
    duration_ms: float | None = None
    # From sending to the first token, in milliseconds
    first_token_ms: float | None = None
    # Tokens of the attempt
    usage: Usage | None = None
    # Cost of the attempt (US dollars)
    cost_usd: Decimal | None = None
    # Cost is an upper bound or an estimate
    estimated: bool = False
    # Cost is the most it can have been
    upper_bound: bool = False


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
class Failure(Record):
    """Why a request was not answered, in our own words; never a provider's text."""

    AVRO_NAME: ClassVar[str] = "headrace.Failure"

    # Stable code, e.g. invalid_request, idempotency_conflict, duplicate_in_flight,
    # expired, provider_unavailable, empty_output, cancelled
    code: str
    # transient-infrastructure, transient-provider, unknown, permanent, poison or policy
    error_class: str
    # What was wrong, where, and what to do
    message: str
    # Field of the request at fault, as a path
    field: str | None = None
    # Whether sending the same request again may succeed
    retryable: bool = False
    # Seconds after which another request may succeed, where a limit or budget refused
    # this one
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounding(Record):
    """What was put before the model."""

    AVRO_NAME: ClassVar[str] = "headrace.Grounding"

    # Messages to send, in order
    messages: tuple[Message, ...] = ()
    # The question that was answered
    question: Text
    # Passages in the prompt, by number
    passages: tuple[Passage, ...] = ()
    # What was searched for; null where it is the question itself
    search: Text | None = None
    # Namespaces that were searched
    namespaces: tuple[str, ...] = ()
    # Template's name
    prompt_name: str = ""
    # Template's version, as name@n
    prompt_version: str = ""
    # sha256 of the template, as hex
    prompt_digest: str = ""
    # Version of the index that was searched
    index_version: str = ""
    # Model that embedded the query
    embedding_model: str = ""
    # Tokens of the messages by our own count
    prompt_tokens_estimate: int = 0
    # Passages left out because they did not fit
    dropped_passages: int = 0
    # Something was cut to fit the context window
    truncated: bool = False


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
class Header(Record):
    """A Kafka header; a key may come several times."""

    AVRO_NAME: ClassVar[str] = "headrace.Header"

    # Header's key
    key: str
    # Header's value, as it was
    value: bytes | None = None


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
