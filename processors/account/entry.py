"""What a cost event says, as the ledger takes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import orjson

from processors.event import Incoming
from schemas.errors import PoisonError
from schemas.records import Cost

# What came of an entry. ``new``: its attempt was not in the ledger. ``repeated``: said before, word for word.
# ``corrected``: a further event of the attempt, as of a late settlement. ``conflict``: an event that was booked before
# now says otherwise.
Booked = Literal["new", "repeated", "corrected", "conflict"]

# A key that Postgres can index.
LONGEST_ID = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Spender:
    """On whose behalf and by which way it was spent: what the books are broken down by."""

    tenant: str
    lane: str
    run: str
    request_id: str
    purpose: str
    ordinal: int
    stage: str
    route: str
    deployment: str
    provider: str
    model: str
    account: str
    served_by: str
    prompt_version: str
    team: str
    user_id: str
    session: str
    feature: str
    tier: str
    arm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one event says that its attempt cost. Amounts in US dollars; ``digest`` is of all that the event says."""

    event_id: str
    digest: str
    state: str
    amount_usd: Decimal
    avoided_cost_usd: Decimal
    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    usage_estimated: bool
    estimated: bool
    upper_bound: bool
    response_id: str | None
    price_source: str
    incurred_at: datetime
    # Later than the rest: rows and events of before do not have them.
    price_version: str = ""
    error_code: str | None = None
    # late or rerate for an event that corrects another; see ``Cost``.
    correction: str = ""
    usage_details: Mapping[str, int] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Entry:
    """One cost event."""

    attempt_id: str
    spender: Spender
    said: Said


def entry_of(incoming: Incoming[Cost]) -> Entry:
    """The entry of a cost event. Raises ``PoisonError`` for one that names no attempt, or none that can be kept.

    An event without a time counts from when the broker had it.
    """
    cost, meta = incoming.record, incoming.meta
    for name, value in (("attempt_id", cost.attempt_id), ("meta.request_id", meta.request_id)):
        if not value.isprintable() or len(value) > LONGEST_ID or (not value and name == "attempt_id"):
            raise PoisonError(f"the cost event's {name} is empty, longer than {LONGEST_ID} or not printable")
    spender = Spender(
        tenant=clean(meta.tenant),
        lane=clean(meta.lane),
        run=clean(meta.run),
        request_id=meta.request_id,
        stage=clean(meta.stage),
        ordinal=cost.ordinal,
        user_id=clean(cost.user),
        **{name: clean(getattr(cost, name)) for name in _SAME},
    )
    return Entry(cost.attempt_id, spender, _said(incoming, spender))


def by_name(value: Spender | Said) -> dict[str, Any]:
    """The fields by name. ``dataclasses.asdict`` copies each of them deeply, which takes as long as all the rest."""
    return {name: getattr(value, name) for name in _FIELDS[type(value)]}


def clean(text: str) -> str:
    """The text without the one character that Postgres takes in no text."""
    return text.replace("\0", "\ufffd")


def _said(incoming: Incoming[Cost], spender: Spender) -> Said:
    cost, usage = incoming.record, incoming.record.usage
    values: dict[str, Any] = {
        "event_id": clean(incoming.meta.event_id),
        "state": clean(cost.state),
        "amount_usd": cost.amount_usd,
        "avoided_cost_usd": cost.avoided_cost_usd,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_prompt_tokens": usage.cached_prompt_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "usage_estimated": usage.estimated,
        "estimated": cost.estimated,
        "upper_bound": cost.upper_bound,
        "response_id": None if cost.response_id is None else clean(cost.response_id),
        "price_source": clean(cost.price_source),
    }
    # Not of the bytes: a later release writes the same event with a field more. The broker's time is not the event's.
    told = {**by_name(spender), **values, "attempt_id": cost.attempt_id, "incurred_at": cost.incurred_at}
    if usage.details:
        told["usage_details"] = dict(usage.details)
    digest = hashlib.sha256(orjson.dumps(told, default=_plain, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return Said(
        digest=digest,
        incurred_at=cost.incurred_at or incoming.appended_at,
        price_version=clean(cost.price_version),
        error_code=None if cost.error_code is None else clean(cost.error_code),
        correction=clean(cost.correction),
        usage_details={clean(name): count for name, count in usage.details.items()},
        **values,
    )


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        # 0.10 and 0.1 are one amount.
        return f"{value.normalize():f}"
    raise TypeError(type(value).__name__)


_FIELDS = {kind: tuple(one.name for one in fields(kind)) for kind in (Spender, Said)}
_SAME = (
    "purpose",
    "route",
    "deployment",
    "provider",
    "model",
    "account",
    "served_by",
    "prompt_version",
    "team",
    "session",
    "feature",
    "tier",
    "arm",
)
