"""What a lane's topics hold of answered requests, as the stages would have written it, and faults on top."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from processors.clock import FakeClock
from processors.event import Incoming
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from processors.journal import CallKey
from schemas.ids import request_event_id
from schemas.record import Record
from schemas.records import (
    Admission,
    Admitted,
    Answer,
    Attempt,
    Completion,
    Cost,
    Enrichment,
    Grounding,
    Meta,
    Request,
    Text,
)


def child(of: Meta, stage: str, ordinal: int = 0) -> Meta:
    """The meta of what a stage derives from an event."""
    blank: Incoming[Any] = Incoming(record=Answer(meta=of, status=""), meta=of, raw=b"", appended_at=datetime.now(UTC))
    return blank.child(stage, "1", ordinal)


def answered(
    lane: str, request_id: str, accepted_at: datetime, *, tenant: str = "acme", ttl_ms: int = 60_000
) -> dict[str, Record]:
    """The events of an answered request, by kind."""
    asked = Meta(event_id=f"made-up-{request_id}", request_id=request_id, tenant=tenant, lane=lane, stage="producer")
    request = Request(meta=asked, query=Text(inline="why?"), ttl_ms=ttl_ms)
    own = replace(
        asked,
        event_id=request_event_id(tenant=tenant, lane=lane, request_id=request_id),
        accepted_at=accepted_at,
    )
    admission = Admission(route="default", expires_at=accepted_at + timedelta(hours=1))
    grounding = Grounding(question=Text(inline="why?"))
    shared: dict[str, Any] = {"request": request, "admission": admission}
    admitted = Admitted(meta=child(own, "admit"), **shared)
    enriched = Enrichment(meta=child(admitted.meta, "enrich"), grounding=grounding, **shared)
    attempt_id = CallKey(tenant=tenant, lane=lane, run="", request_id=request_id).attempt_id(0)
    attempt = Attempt(attempt_id=attempt_id, ordinal=0, state="done", cost_usd=Decimal("0.25"), started_at=accepted_at)
    completion = Completion(
        meta=child(enriched.meta, "complete"),
        grounding=grounding,
        text=Text(inline=f"Mail {request_id}@example.com, please."),
        finish_reason="stop",
        attempts=(attempt,),
        cost_usd=Decimal("0.25"),
        **shared,
    )
    cost = Cost(
        meta=replace(child(enriched.meta, "complete"), event_id=attempt_id),
        attempt_id=attempt_id,
        state="done",
        amount_usd=Decimal("0.25"),
        incurred_at=accepted_at,
    )
    return {
        "requests": request,
        "admitted": admitted,
        "enrichments.normal": enriched,
        "completions": completion,
        "costs": cost,
        "answers": filtered(completion, accepted_at + timedelta(seconds=1)),
    }


def filtered(completion: Completion, now: datetime) -> Answer:
    """The answer that the filter makes."""
    processor = Filter(policy=FilterPolicy(), clock=FakeClock(now))
    incoming = Incoming(record=completion, meta=completion.meta, raw=b"", appended_at=now)
    (answer,) = asyncio.run(_run(processor, incoming))
    assert isinstance(answer, Answer) and answer.status == "answered"
    return answer


async def _run(processor: Filter, incoming: Incoming[Completion]) -> list[Any]:
    return list(await processor(incoming))
