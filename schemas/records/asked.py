"""Generated from `schemas/avro/*.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from schemas.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta(Record):
    """Identity and cause of an event; the first field of every record."""

    AVRO_NAME: ClassVar[str] = "headrace.Meta"

    # UUIDv5 of (tenant, lane, run, stage, causation_id, ordinal); a redelivered event has
    # the same id and the same bytes
    event_id: str
    # Request that this event belongs to; empty where there is none (documents, control,
    # some alerts)
    request_id: str
    # Tenant that owns the event
    tenant: str
    # Lane the event was written in: live, bulk, or a replay's own
    lane: str
    # Replay, backfill or re-drive that wrote the event; empty for live traffic
    run: str = ""
    # event_id of the event that caused this one; empty for an event from outside
    causation_id: str = ""
    # Stage that wrote the event, or producer
    stage: str = ""
    # Version of the stage's code that wrote the event
    stage_version: str = ""
    # Broker append time of the request; null until the request was read (UTC
    # microseconds)
    accepted_at: datetime | None = None
    # Offset of the last control record known when the event was decided; -1 before the
    # first
    control_offset: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Record):
    """A personal or large text: exactly one of the fields is set."""

    AVRO_NAME: ClassVar[str] = "headrace.Text"

    # The text itself
    inline: str | None = None
    # Claim check: digest of a text stored in Postgres, as sha256:<hex>
    ref: str | None = None
    # The text encrypted under its tenant's key
    sealed: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentPart(Record):
    """One part of a message's content."""

    AVRO_NAME: ClassVar[str] = "headrace.ContentPart"

    # Kind of part: text, image_url, input_audio, file
    type: str
    # The text of a part of type text
    text: Text | None = None
    # Where the bytes of a part that is no text are; no data: URL, those bytes belong in
    # data
    url: str | None = None
    # The bytes of a part that is no text, as base64
    data: Text | None = None
    # Name of the file, for a part that is one
    file_name: str | None = None
    # IANA media type of a part that is no text
    media_type: str | None = None
    # Provider's hint on how closely to look at an image: low, high, auto
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Record):
    """One chat message."""

    AVRO_NAME: ClassVar[str] = "headrace.Message"

    # Who speaks: system, developer, user, assistant, tool
    role: str
    # Parts of the message in order
    content: tuple[ContentPart, ...] = ()
    # Name of the speaker, where several share a role
    name: str | None = None
    # For role tool: the call that this message answers
    tool_call_id: str | None = None
    # For role assistant: the calls made, as the provider's JSON array
    tool_calls_json: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRef(Record):
    """A prompt template by name, with the values for its variables."""

    AVRO_NAME: ClassVar[str] = "headrace.PromptRef"

    # Template's name
    name: str
    # Template's version (n of name@n); null for the one that is current on control
    version: str | None = None
    # Values for the template's variables by name
    variables: Mapping[str, Text] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling(Record):
    """Sampling parameters, passed to the model as given; null leaves the deployment's default."""

    AVRO_NAME: ClassVar[str] = "headrace.Sampling"

    # Randomness, 0 to 2
    temperature: float | None = None
    # Nucleus sampling mass, 0 to 1
    top_p: float | None = None
    # Most tokens to generate
    max_tokens: int | None = None
    # Texts that end generation
    stop: tuple[str, ...] = ()
    # Seed for repeatable sampling, where the provider has one
    seed: int | None = None
    # Penalty on tokens already present, -2 to 2
    presence_penalty: float | None = None
    # Penalty on frequent tokens, -2 to 2
    frequency_penalty: float | None = None
    # How many alternatives' log probabilities to return; null for none
    top_logprobs: int | None = None
    # Provider's reasoning effort: none, minimal, low, medium, high, xhigh
    reasoning_effort: str | None = None
    # How many answers to draw
    samples: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFormat(Record):
    """What form the answer must have."""

    AVRO_NAME: ClassVar[str] = "headrace.ResponseFormat"

    # text, json_object or json_schema
    type: str = "text"
    # Name of the JSON schema
    schema_name: str | None = None
    # The JSON schema (draft 2020-12, or the one that its $schema names), as JSON
    schema_json: Text | None = None
    # Ask the provider to hold to the schema
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval(Record):
    """How context is retrieved for the request."""

    AVRO_NAME: ClassVar[str] = "headrace.Retrieval"

    # Whether passages are retrieved at all
    enabled: bool = True
    # How many passages at most; null for the route's default
    k: int | None = None
    # Least cosine similarity of a passage, -1 to 1; null for the route's default
    minimum_score: float | None = None
    # Document metadata that a passage must carry, by key
    filters: Mapping[str, str] = field(default_factory=dict)
    # Namespaces to search; empty for the tenant's default
    namespaces: tuple[str, ...] = ()
