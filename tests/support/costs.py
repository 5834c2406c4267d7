"""Cost events for tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from processors.account.entry import Entry, entry_of
from processors.event import Incoming
from schemas.ids import derive_id
from schemas.records import Cost, Meta, Usage

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def cost(attempt_id: str, amount: str = "0.25", *, tenant: str = "acme", lane: str = "live", **fields: Any) -> Cost:
    """The event that closed an attempt. ``fields`` are the record's own; ``request_id`` is that of its meta."""
    meta = Meta(
        event_id=fields.pop("event_id", attempt_id),
        request_id=fields.pop("request_id", f"request of {attempt_id}"),
        tenant=tenant,
        lane=lane,
        stage="complete",
    )
    values: dict[str, Any] = {
        "state": "done",
        "usage": Usage(prompt_tokens=100, completion_tokens=20),
        "incurred_at": AT,
        "price_source": "a test",
    }
    return Cost(meta=meta, attempt_id=attempt_id, amount_usd=Decimal(amount), **{**values, **fields})


def correction(booked: Cost, amount: str, **fields: Any) -> Cost:
    """A late settlement of an attempt: the difference to what was booked."""
    meta = replace(booked.meta, event_id=derive_id(booked.attempt_id, "late"))
    values = {"state": "done", "upper_bound": False, "estimated": False, **fields}
    return replace(booked, meta=meta, amount_usd=Decimal(amount) - booked.amount_usd, **values)


def incoming(record: Cost) -> Incoming[Cost]:
    """The event as the stage gets it."""
    return Incoming(record=record, meta=record.meta, raw=b"", appended_at=AT)


def entry(record: Cost) -> Entry:
    """The event as the ledger gets it."""
    return entry_of(incoming(record))
