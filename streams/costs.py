"""What was spent, from the ledger: sums over a stretch of time, broken down as asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, LiteralString

import psycopg

from processors.postgres import Database
from schemas.errors import ConfigurationError

# What the books can be broken down by, and the ledger's expression for it. Days are UTC's.
DIMENSIONS: dict[str, LiteralString] = {
    "tenant": "tenant",
    "team": "team",
    "user": "user_id",
    "session": "session",
    "feature": "feature",
    "model": "model",
    "day": "to_char(incurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "route": "route",
    "deployment": "deployment",
    "tier": "tier",
    "provider": "provider",
    "account": "account",
    "purpose": "purpose",
    "stage": "stage",
    "prompt": "prompt_version",
    "arm": "arm",
    "lane": "lane",
    "run": "run",
}
# A year of a busy ledger is read in well under this time.
QUERY_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows: from ``since`` and before ``until``, of one tenant and one lane where they are named."""

    since: datetime | None = None
    until: datetime | None = None
    tenant: str | None = None
    lane: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """One line of the books. Amounts in US dollars: ``total`` is done, failed and unknown together.

    Tokens are those of attempts that were done: of others only bounds are known. ``unknown_usd`` is the most that
    attempts of unknown outcome can have cost.
    """

    # One value for each dimension that was asked for; empty in the total.
    group: tuple[str, ...]
    requests: int
    attempts: int
    failed_attempts: int
    unknown_attempts: int
    unpriced_attempts: int
    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    reasoning_tokens: int
    done_usd: Decimal
    failed_usd: Decimal
    unknown_usd: Decimal
    total_usd: Decimal
    avoided_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What was spent. ``omitted`` groups are in the total alone; ``latest`` is when the ledger was last written."""

    by: tuple[str, ...]
    groups: tuple[Spent, ...]
    omitted: int
    total: Spent
    conflicts: int
    latest: datetime | None


async def look_up(dsn: str, by: Sequence[str], selection: Selection, *, limit: int | None = None) -> Costs:
    """Sum the ledger up, dearest group first, days in their order.

    Blocks on two queries that see the same rows. Raises ``ConfigurationError`` for an unknown dimension or where there
    is no ledger, and ``DependencyDownError``.
    """
    unknown = [name for name in by if name not in DIMENSIONS]
    if unknown:
        raise ConfigurationError(f"the books know no {', '.join(unknown)}; take one of {', '.join(DIMENSIONS)}")
    parameters = {
        "since": selection.since,
        "until": selection.until,
        "tenant": selection.tenant,
        "lane": selection.lane,
        "limit": limit,
    }
    timeout_s = QUERY_TIMEOUT_S
    database = await Database.open(dsn, max_size=1, application_name="headrace-costs", statement_timeout_s=timeout_s)
    try:
        async with database.transaction() as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            whole = await (await connection.execute(_WHOLE, parameters)).fetchone()
            found = await (await connection.execute(_grouped(by), parameters)).fetchall() if by else []
    except psycopg.errors.UndefinedTable:
        raise ConfigurationError("the database has no ledger; run `headrace migrate`") from None
    finally:
        await database.close()
    assert whole is not None
    *sums, conflicts, latest = whole
    return Costs(
        by=tuple(by),
        groups=tuple(_spent(row[:-1], len(by)) for row in found),
        omitted=found[0][-1] - len(found) if found else 0,
        total=_spent(sums, 0),
        conflicts=conflicts,
        latest=None if latest is None else latest.astimezone(UTC),
    )


def _spent(row: Sequence[Any], width: int) -> Spent:
    return Spent(group=tuple(row[:width]), **dict(zip(_SUMS, row[width:], strict=True)))


def _grouped(by: Sequence[str]) -> LiteralString:
    names = ", ".join(DIMENSIONS[name] for name in by)
    # Time goes forward; of all else the dearest comes first.
    days = [str(number) for number, name in enumerate(by, start=1) if name == "day"]
    order = ", ".join([*days, "total_usd DESC", "requests DESC", names])
    return f"""
        SELECT {names}, {_SELECT}, count(*) OVER () FROM ledger {_WHERE}
        GROUP BY {names} ORDER BY {order} LIMIT %(limit)s
    """


# A row that was served by a recorded response is no attempt. A group of rows of no request has none.
_SUMS: dict[str, LiteralString] = {
    "requests": "count(DISTINCT (tenant, lane, request_id)) FILTER (WHERE request_id <> '')",
    "attempts": "count(*) FILTER (WHERE served_by = 'model')",
    "failed_attempts": "count(*) FILTER (WHERE state = 'failed')",
    "unknown_attempts": "count(*) FILTER (WHERE state = 'unknown')",
    "unpriced_attempts": "count(*) FILTER (WHERE price_source = 'unpriced')",
    "prompt_tokens": "coalesce(sum(prompt_tokens) FILTER (WHERE state = 'done'), 0)::bigint",
    "completion_tokens": "coalesce(sum(completion_tokens) FILTER (WHERE state = 'done'), 0)::bigint",
    "cached_prompt_tokens": "coalesce(sum(cached_prompt_tokens) FILTER (WHERE state = 'done'), 0)::bigint",
    "reasoning_tokens": "coalesce(sum(reasoning_tokens) FILTER (WHERE state = 'done'), 0)::bigint",
    "done_usd": "coalesce(sum(amount_usd) FILTER (WHERE state NOT IN ('failed', 'unknown')), 0)",
    "failed_usd": "coalesce(sum(amount_usd) FILTER (WHERE state = 'failed'), 0)",
    "unknown_usd": "coalesce(sum(amount_usd) FILTER (WHERE state = 'unknown'), 0)",
    "total_usd": "coalesce(sum(amount_usd), 0)",
    "avoided_usd": "coalesce(sum(avoided_cost_usd), 0)",
}
_SELECT = ", ".join(f"{expression} AS {name}" for name, expression in _SUMS.items())
_WHERE = """
WHERE (%(since)s::timestamptz IS NULL OR incurred_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR incurred_at < %(until)s)
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND CASE WHEN %(lane)s::text IS NULL
      -- A replay of the books copies rows into its lane: no money was spent for them.
      THEN lane NOT IN (SELECT lane FROM replay_runs WHERE copies_books) ELSE lane = %(lane)s END
"""
_WHOLE = f"SELECT {_SELECT}, coalesce(sum(conflicts), 0)::bigint, max(changed_at) FROM ledger {_WHERE}"
