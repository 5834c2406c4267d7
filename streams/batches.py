"""Every batch and what waits for one, as the tables tell: what ``headrace batches`` and ``headrace status`` show."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from processors.postgres import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownBatch:
    """One batch. ``items`` counts its requests by state; times are the database's."""

    batch_id: str
    lane: str
    deployment: str
    state: str
    provider_batch: str | None
    provider_status: str
    begun_at: datetime
    ended_at: datetime | None
    age_s: float
    items: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """Requests of a lane that wait for a deployment's next batch."""

    lane: str
    deployment: str
    requests: int
    oldest_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What there is, the newest batch first."""

    batches: list[ShownBatch]
    waiting: list[Gathering]


def batches(dsn: str, *, lane: str | None, ended: int) -> Shown:
    """The batches that are not over, and so many that are; of one lane or of all.

    Blocks on Postgres; raises ``DependencyDownError``.
    """
    return asyncio.run(_read(dsn, lane, ended))


def line_of(shown: Shown) -> str | None:
    """One line for a person; ``None`` where nothing goes by batch."""
    running = [one for one in shown.batches if one.ended_at is None]
    waiting = sum(one.requests for one in shown.waiting)
    if not running and not waiting:
        return None
    inside = sum(sum(one.items.values()) for one in running)
    oldest = max([*(one.age_s for one in running), *(one.oldest_s for one in shown.waiting)])
    return f"batches: {len(running)} open with {inside:,} requests, {waiting:,} waiting, the oldest {_age(oldest)}"


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


async def _read(dsn: str, lane: str | None, ended: int) -> Shown:
    database = await Database.open(dsn, max_size=1)
    try:
        rows = await database.execute(_BATCHES, {"lane": lane, "ended": ended})
        waiting = await database.execute(_WAITING, {"lane": lane})
    finally:
        await database.close()
    return Shown(
        batches=[_batch(row) for row in rows],
        waiting=[
            Gathering(lane=of, deployment=deployment, requests=requests, oldest_s=oldest_s)
            for of, deployment, requests, oldest_s in waiting
        ],
    )


def _batch(row: tuple[Any, ...]) -> ShownBatch:
    batch_id, lane, deployment, state, provider_batch, status, begun_at, ended_at, age_s, items = row
    return ShownBatch(
        batch_id=str(batch_id),
        lane=lane,
        deployment=deployment,
        state=state,
        provider_batch=provider_batch,
        provider_status=status,
        begun_at=begun_at.astimezone(UTC),
        ended_at=None if ended_at is None else ended_at.astimezone(UTC),
        age_s=age_s,
        items=items,
    )


_BATCHES = """
    WITH shown AS (
        (SELECT * FROM batches WHERE state NOT IN ('ended', 'lost')
            AND (%(lane)s::text IS NULL OR lane = %(lane)s))
        UNION ALL
        (SELECT * FROM batches WHERE state IN ('ended', 'lost') AND (%(lane)s::text IS NULL OR lane = %(lane)s)
         ORDER BY begun_at DESC LIMIT %(ended)s))
    SELECT batch_id, lane, deployment, state, provider_batch, provider_status, begun_at, ended_at,
        extract(epoch FROM clock_timestamp() - begun_at)::double precision,
        coalesce((SELECT jsonb_object_agg(counted.state, counted.items) FROM (
            SELECT i.state, count(*) AS items FROM batch_items AS i WHERE i.batch_id = shown.batch_id
            GROUP BY i.state) AS counted), '{}')
    FROM shown ORDER BY begun_at DESC
"""
_WAITING = """
    SELECT lane, deployment, count(*), extract(epoch FROM clock_timestamp() - min(stored_at))::double precision
    FROM batch_items WHERE state = 'waiting' AND (%(lane)s::text IS NULL OR lane = %(lane)s)
    GROUP BY lane, deployment ORDER BY lane, deployment
"""
