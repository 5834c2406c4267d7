"""Generated from `schemas/avro/request.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Message, Meta, PromptRef, ResponseFormat, Retrieval, Sampling, Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Record):
    """A question to be answered. Written by producers."""

    AVRO_NAME: ClassVar[str] = "headrace.Request"

    # Identity and cause
    meta: Meta
    # Key under which a repeated request is recognised, unique per tenant
    idempotency_key: str | None = None
    # Team that pays
    team: str = ""
    # User on whose behalf it is asked
    user: str = ""
    # Conversation it belongs to
    session: str = ""
    # Product feature that asks
    feature: str = ""
    # Tier the producer claims; admission checks it against settings
    tier: str = ""
    # high, normal or low
    priority: str = "normal"
    # How long after the broker accepted it an answer is still wanted, in milliseconds
    ttl_ms: int = 300000
    # The question; set this or messages
    query: Text | None = None
    # The conversation; set this or query
    messages: tuple[Message, ...] = ()
    # Prompt template to render; null for the route's default
    prompt: PromptRef | None = None
    # Route to take; null for the default
    route: str | None = None
    # Model to ask for; null for the route's choice
    model: str | None = None
    # Sampling parameters
    sampling: Sampling = field(default_factory=Sampling)
    # Form of the answer
    response_format: ResponseFormat = field(default_factory=ResponseFormat)
    # Tools the model may call, as the provider's JSON array
    tools_json: Text | None = None
    # Which tool to call, as the provider's JSON
    tool_choice_json: str | None = None
    # How context is retrieved
    retrieval: Retrieval = field(default_factory=Retrieval)
    # Publish the answer in chunks as well
    stream: bool = False
    # default, or off to answer from no cache
    cache: str = "default"
    # The producer's own labels, carried to the answer
    metadata: Mapping[str, str] = field(default_factory=dict)
