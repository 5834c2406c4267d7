"""An enrichment as the stage before the call would have written it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from processors.event import Incoming
from schemas.codec import Codec
from schemas.ids import derive_id
from schemas.records import Admission, ContentPart, Enrichment, Grounding, Message, Meta, Request, Text

ACCEPTED = datetime(2026, 1, 1, tzinfo=UTC)


def enrichment(
    request_id: str,
    text: str = "What is a coroutine?",
    *,
    tenant: str = "acme",
    lane: str = "live",
    route: str = "default",
    expires_at: datetime | None = ACCEPTED + timedelta(minutes=5),
    **asked: Any,
) -> Enrichment:
    """A request for ``text`` with everything that the call needs."""
    meta = Meta(
        event_id=derive_id("request", request_id),
        request_id=request_id,
        tenant=tenant,
        lane=lane,
        accepted_at=ACCEPTED,
    )
    message = Message(role="user", content=(ContentPart(type="text", text=Text(inline=text)),))
    return Enrichment(
        meta=replace(meta, event_id=derive_id("enrichment", tenant, lane, request_id), stage="enrich"),
        request=Request(meta=meta, query=Text(inline=text), team="search", user="u1", **asked),
        admission=Admission(route=route, tier="standard", expires_at=expires_at),
        grounding=Grounding(
            messages=(message,),
            question=Text(inline=text),
            prompt_version="answer@1",
            prompt_tokens_estimate=6,
        ),
    )


def incoming(record: Enrichment, codec: Codec, *, control_offset: int = 3) -> Incoming[Enrichment]:
    """The record as it is delivered."""
    return Incoming(
        record=record,
        meta=record.meta,
        raw=codec.encode(record),
        appended_at=ACCEPTED,
        control_offset=control_offset,
    )
