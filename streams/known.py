"""What the database knows of a request: when it was in work, its final answer, and every attempt that was paid."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from processors.postgres import Database


@dataclass(frozen=True, slots=True)
class Known:
    """All that was found; empty where the request got no further than its topic, or its rows are gone."""

    tenants: tuple[str, ...] = ()
    # First and last trace of it. ``until`` is None while it has no final answer.
    since: datetime | None = None
    until: datetime | None = None
    # When the ledger took its last cost event: a changed price may be booked weeks after the answer.
    booked: datetime | None = None
    final: dict[str, Any] | None = None
    attempts: tuple[dict[str, Any], ...] = ()
    # What was scored or is still to be, and what users said, in order of time.
    evaluations: tuple[dict[str, Any], ...] = ()
    feedback: tuple[dict[str, Any], ...] = ()
    # Where it waits now, outside the log, and for what.
    deferred: tuple[dict[str, Any], ...] = ()


async def look_up(dsn: str, *, lane: str, request_id: str, tenants: Collection[str]) -> Known:
    """Ask the database, by keys. Blocks on seven short queries; raises ``DependencyDownError``."""
    database = await Database.open(dsn, max_size=1, application_name="headrace-audit")
    try:
        key = {"lane": lane, "request_id": request_id, "tenants": list(tenants)}
        begun = await database.execute(_BEGUN, key)
        finals = await database.execute(_FINALS, key)
        rows = await database.execute(_ATTEMPTS, key)
        scored = await database.execute(_EVALUATIONS, key)
        told = await database.execute(_FEEDBACK, key)
        waits = await database.execute(_DEFERRED, key)
        [(booked,)] = await database.execute(_BOOKED, key)
    finally:
        await database.close()
    attempts = tuple(_attempt(row) for row in rows)
    starts = [since for _, since, _ in begun]
    ends = [row[-1] for row in finals] + [ended for _, _, ended in begun if ended is not None]
    # Users take their time, and so may an embedding endpoint that was away.
    ends += [row[-1] for row in told] + [row[-1] for row in scored if row[-1] is not None]
    return Known(
        tenants=tuple(sorted({row[0] for row in (*begun, *finals)})),
        since=min(starts, default=None),
        until=max(ends) if finals else None,
        booked=booked,
        final=_final(finals[-1]) if finals else None,
        attempts=attempts,
        evaluations=tuple(_named(_SCORED, row) for row in scored),
        feedback=tuple(_named(_TOLD, row) for row in told),
        deferred=tuple(_named(_WAITS, row) for row in waits),
    )


def _final(row: tuple[Any, ...]) -> dict[str, Any]:
    _, revision, event_id, status, decided_at = row
    return {"status": status, "revision": revision, "event_id": event_id, "decided_at": _plain(decided_at)}


def _attempt(row: tuple[Any, ...]) -> dict[str, Any]:
    return _named(_COLUMNS, row)


def _named(names: tuple[str, ...], row: tuple[Any, ...]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in zip(names, row, strict=True)}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return f"{value.normalize():f}" if isinstance(value, Decimal) else value


_BEGUN = """
    SELECT tenant, accepted_at, NULL::timestamptz FROM idempotency
    WHERE tenant = ANY(%(tenants)s) AND lane = %(lane)s AND scope = 'request' AND key = %(request_id)s
    UNION ALL
    SELECT tenant, created_at, updated_at FROM calls
    WHERE tenant = ANY(%(tenants)s) AND lane = %(lane)s AND request_id = %(request_id)s
"""
_FINALS = """
    SELECT tenant, revision, event_id, status, decided_at FROM finals
    WHERE tenant = ANY(%(tenants)s) AND lane = %(lane)s AND request_id = %(request_id)s
    ORDER BY revision
"""
_SCORED = ("event_id", "answer_event_id", "source", "scores", "expected_at", "done_at")
_EVALUATIONS = """
    SELECT event_id, answer_event_id, source, scores, expected_at, done_at FROM evaluations
    WHERE tenant = ANY(%(tenants)s) AND lane = %(lane)s AND request_id = %(request_id)s
    ORDER BY expected_at, event_id
"""
_TOLD = ("event_id", "answer_event_id", "received_at")
_FEEDBACK = """
    SELECT event_id, answer_event_id, received_at FROM feedback
    WHERE tenant = ANY(%(tenants)s) AND lane = %(lane)s AND request_id = %(request_id)s
    ORDER BY received_at, event_id
"""
_WAITS = ("stage", "event_id", "reason", "deferred_at", "not_before", "expires_at")
_DEFERRED = """
    SELECT stage, event_id, reason, deferred_at, not_before, expires_at FROM deferred
    WHERE tenant = ANY(%(tenants)s) AND lane = %(lane)s AND request_id = %(request_id)s
    ORDER BY deferred_at, event_id
"""
_BOOKED = """
    SELECT max(changed_at) FROM ledger
    WHERE tenant = ANY(%(tenants)s) AND lane = %(lane)s AND request_id = %(request_id)s
"""
_COLUMNS = (
    "attempt_id",
    "purpose",
    "call_ordinal",
    "ordinal",
    "epoch",
    "route",
    "deployment",
    "provider",
    "model",
    "state",
    "started_at",
    "ended_at",
    "error_class",
    "error_code",
    "http_status",
    "response_id",
    "duration_ms",
    "first_token_ms",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "booked_usd",
    "estimated",
    "upper_bound",
    "duplicate",
    "price_source",
    "batch_id",
    "provider_batch",
)
_ATTEMPTS = """
    SELECT a.attempt_id::text, c.purpose, c.ordinal, a.ordinal, a.epoch, a.route, a.deployment, a.provider, a.model,
           a.state, a.started_at, a.ended_at, a.error_class, a.error_code, a.http_status, a.response_id,
           a.duration_ms, a.first_token_ms, a.prompt_tokens, a.completion_tokens, a.cost_usd,
           l.amount_usd, a.estimated, a.upper_bound, a.duplicate, a.price_source, i.batch_id::text, b.provider_batch
    FROM calls c JOIN attempts a USING (call_id)
    LEFT JOIN ledger l ON l.attempt_id = a.attempt_id::text
    LEFT JOIN batch_items i ON i.call_id = c.call_id AND i.attempt_id = a.attempt_id
    LEFT JOIN batches b ON b.batch_id = i.batch_id
    WHERE c.tenant = ANY(%(tenants)s) AND c.lane = %(lane)s AND c.request_id = %(request_id)s
    ORDER BY a.started_at, c.ordinal, a.ordinal
"""
