"""Records that the tests of the codec share."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from schemas.records import Answer, Attempt, Delta, Meta, Request, Text, Usage

SECRET = "canary-5b1f"
META = Meta(
    event_id="6f1d5c6e-5d0b-5a3f-9c1e-0a4f6b7d8e21",
    request_id="r-1",
    tenant="acme",
    lane="live",
    accepted_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
)
REQUEST = Request(meta=META, query=Text(inline=f"{SECRET} what is a decorator?"), metadata={"origin": SECRET})
DELTA = Delta(meta=META, sequence=3, text=Text(inline="hello wor"), elapsed_ms=1.25)
ANSWER = Answer(
    meta=META,
    status="answered",
    text=Text(inline=f"{SECRET} It wraps a function."),
    cost_usd=Decimal("0.000123"),
    attempts=(Attempt(attempt_id="a-1", state="done", usage=Usage(prompt_tokens=7), cost_usd=Decimal("0.000123")),),
)
