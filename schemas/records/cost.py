"""Generated from `schemas/avro/cost.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta
from schemas.records.done import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost(Record):
    """What one attempt cost. Its event_id is the attempt's id."""

    AVRO_NAME: ClassVar[str] = "headrace.Cost"

    # Identity and cause
    meta: Meta
    # Attempt that spent it
    attempt_id: str
    # completion, judge, embedding or rewrite
    purpose: str = "completion"
    # Attempt's number within the call, from 0
    ordinal: int = 0
    # Route it took
    route: str = ""
    # Deployment called
    deployment: str = ""
    # Provider
    provider: str = ""
    # Model charged
    model: str = ""
    # done, failed or unknown
    state: str
    # Tokens charged
    usage: Usage = field(default_factory=Usage)
    # Amount charged (US dollars)
    amount_usd: Decimal
    # What a reused response would have cost (US dollars)
    avoided_cost_usd: Decimal = Decimal("0")
    # Amount is an estimate
    estimated: bool = False
    # Amount is the most it can have cost
    upper_bound: bool = False
    # Where the price came from, with its version or date
    price_source: str = ""
    # Version of the price book: the library's, or a digest of an operator's figures
    price_version: str = ""
    # Code of the error that ended a failed or unknown attempt
    error_code: str | None = None
    # Why this event corrects what was booked: late (the outcome came in late) or rerate
    # (the price changed); empty for the event that closed the attempt
    correction: str = ""
    # Provider's id of the response, to reconcile with its invoice
    response_id: str | None = None
    # Name of the provider account that is billed; never a key
    account: str = ""
    # model, cache-exact, cache-semantic, journal, template
    served_by: str = "model"
    # Event whose response was reused
    source_event_id: str | None = None
    # Template's version, as name@n
    prompt_version: str = ""
    # Team that pays
    team: str = ""
    # User on whose behalf it was spent
    user: str = ""
    # Conversation it belongs to
    session: str = ""
    # Product feature that asked
    feature: str = ""
    # Tenant's tier
    tier: str = ""
    # Arm of a running experiment
    arm: str = ""
    # Database time when the attempt ended (UTC microseconds)
    incurred_at: datetime | None = None
