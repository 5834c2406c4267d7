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
    # The moment as of which a replay searched the index; null where it was searched as it
    # is (UTC microseconds)
    index_as_of: datetime | None = None
    # Model that embedded the query
    embedding_model: str = ""
    # Tokens of the messages by our own count
    prompt_tokens_estimate: int = 0
    # Passages left out because they did not fit
    dropped_passages: int = 0
    # Something was cut to fit the context window
    truncated: bool = False
