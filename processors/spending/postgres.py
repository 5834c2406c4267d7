"""The book of embeddings in Postgres: the table ``spends``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from processors.postgres import Database
from processors.spending.port import Bought, Closing, Keeping, Kept, Opened, Opening, Untold, covers

# Others that open attempts of the same spender at the same time take its numbers; one or two ever do.
_TRIES = 8


class PostgresSpends:
    """``Spends`` that every worker shares. All time is the database's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, openings: Sequence[Opening]) -> Sequence[Opened | Bought]:
        came: dict[str, Opened | Bought] = {}
        numbers = {one.spender: 0 for one in openings}
        kept: dict[str, tuple[Kept, ...]] = {}
        for _ in range(_TRIES):
            left = [one for one in openings if one.spender not in came]
            if not left:
                break
            opened = await self._insert(left, numbers)
            came |= {spender: Opened(numbers[spender], kept.get(spender, ())) for spender in opened}
            others = [one for one in left if one.spender not in opened]
            if others:
                await self._look(others, numbers, kept)
                for one in others:
                    if kept[one.spender] and covers(kept[one.spender], one.owed):
                        came[one.spender] = Bought(kept[one.spender])
        return [came[one.spender] for one in openings]

    async def close(self, closings: Sequence[Closing]) -> None:
        if closings:
            ordered = sorted(closings, key=lambda one: (one.spender, one.ordinal))
            parameters = {
                "spenders": [one.spender for one in ordered],
                "ordinals": [one.ordinal for one in ordered],
                "events": [one.event for one in ordered],
                "vectors": [one.vectors for one in ordered],
                "amounts": [one.amount_usd for one in ordered],
            }
            await self._database.execute(_CLOSE, parameters)

    async def keep(self, keepings: Sequence[Keeping]) -> None:
        if keepings:
            ordered = sorted(keepings, key=lambda one: one.spender)
            parameters = {
                "spenders": [one.spender for one in ordered],
                "lanes": [one.lane for one in ordered],
                "tenants": [one.tenant for one in ordered],
                "asked": [one.kept.asked for one in ordered],
                "vectors": [one.kept.vectors for one in ordered],
            }
            await self._database.execute(_KEEP, parameters)

    async def take(self, lane: str, *, limit: int, hold_s: float) -> Sequence[Untold]:
        rows = await self._database.execute(_TAKE, {"lane": lane, "limit": limit, "hold_s": hold_s})
        return [Untold(spender=str(spender), ordinal=ordinal, event=event) for spender, ordinal, event in rows]

    async def told(self, untold: Sequence[Untold]) -> None:
        if untold:
            ordered = sorted(untold, key=lambda one: (one.spender, one.ordinal))
            parameters = {
                "spenders": [one.spender for one in ordered],
                "ordinals": [one.ordinal for one in ordered],
            }
            await self._database.execute(_TOLD, parameters)

    async def kept(self, spenders: Sequence[str]) -> Mapping[str, tuple[Kept, ...]]:
        rows = await self._database.execute(_LOOK, {"spenders": list(spenders)}) if spenders else []
        return {str(spender): _pairs(asked, vectors) for spender, _, asked, vectors in rows if asked}

    async def abandon(self, lane: str) -> None:
        await self._database.execute(_ABANDON, {"lane": lane})

    async def spent(self, lane: str) -> Decimal:
        [(amount,)] = await self._database.execute(SPENT, {"lane": lane})
        return Decimal(amount)

    async def _insert(self, openings: Sequence[Opening], numbers: dict[str, int]) -> list[str]:
        ordered = sorted(openings, key=lambda one: one.spender)
        parameters = {
            "spenders": [one.spender for one in ordered],
            "ordinals": [numbers[one.spender] for one in ordered],
            "lanes": [one.lane for one in ordered],
            "tenants": [one.tenant for one in ordered],
            "events": [one.event(numbers[one.spender]) for one in ordered],
            "asked": [one.asked for one in ordered],
            "due_s": [one.due_s for one in ordered],
            "amounts": [one.bound_usd for one in ordered],
        }
        return [str(row[0]) for row in await self._database.execute(_OPEN, parameters)]

    async def _look(
        self, openings: Sequence[Opening], numbers: dict[str, int], kept: dict[str, tuple[Kept, ...]]
    ) -> None:
        """What spenders have that were here before: vectors that are kept, and a number that is free."""
        kept |= {one.spender: () for one in openings}
        parameters = {"spenders": [one.spender for one in openings]}
        for spender, last, asked, vectors in await self._database.execute(_LOOK, parameters):
            numbers[str(spender)] = last + 1
            kept[str(spender)] = _pairs(asked, vectors)


def _pairs(asked: Sequence[bytes] | None, vectors: Sequence[bytes] | None) -> tuple[Kept, ...]:
    return tuple(Kept(*pair) for pair in zip(asked or (), vectors or (), strict=True))


# What is written here may be paid for the next moment: on disk when this returns, whatever the server's default. In the
# order of keys, so that two workers never wait for each other in a circle.
_OPEN = """
WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true))
INSERT INTO spends (spender, ordinal, lane, tenant, event, asked, due_at, amount_usd)
SELECT spender, ordinal, lane, tenant, event, asked, clock_timestamp() + make_interval(secs => due_s), amount
FROM durable, unnest(%(spenders)s::uuid[], %(ordinals)s::integer[], %(lanes)s::text[], %(tenants)s::text[],
                     %(events)s::bytea[], %(asked)s::bytea[], %(due_s)s::float8[], %(amounts)s::numeric[])
    AS opening (spender, ordinal, lane, tenant, event, asked, due_s, amount)
ORDER BY spender, ordinal
ON CONFLICT DO NOTHING
RETURNING spender
"""
_LOOK = """
SELECT spender, max(ordinal),
       array_agg(asked ORDER BY ordinal) FILTER (WHERE vectors IS NOT NULL),
       array_agg(vectors ORDER BY ordinal) FILTER (WHERE vectors IS NOT NULL)
FROM spends WHERE spender = ANY(%(spenders)s::uuid[])
GROUP BY spender
"""
# Told already: there is nothing to tell. Where another worker takes the number first, nothing is kept.
_KEEP = """
INSERT INTO spends (spender, ordinal, lane, tenant, state, asked, vectors, due_at, told_at)
SELECT spender, (SELECT coalesce(max(ordinal) + 1, 0) FROM spends WHERE spends.spender = keeping.spender),
       lane, tenant, 'closed', asked, vectors, clock_timestamp(), clock_timestamp()
FROM unnest(%(spenders)s::uuid[], %(lanes)s::text[], %(tenants)s::text[], %(asked)s::bytea[], %(vectors)s::bytea[])
    AS keeping (spender, lane, tenant, asked, vectors)
WHERE NOT EXISTS (SELECT FROM spends WHERE spends.spender = keeping.spender AND spends.asked = keeping.asked
                  AND spends.vectors IS NOT NULL)
ORDER BY spender
ON CONFLICT DO NOTHING
"""
_CLOSE = """
WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)),
closing AS (
    SELECT closing.* FROM durable, unnest(%(spenders)s::uuid[], %(ordinals)s::integer[], %(events)s::bytea[],
                                          %(vectors)s::bytea[], %(amounts)s::numeric[])
        AS closing (spender, ordinal, event, vectors, amount)
), unspent AS (
    DELETE FROM spends USING closing
    WHERE spends.spender = closing.spender AND spends.ordinal = closing.ordinal
      AND spends.state = 'open' AND closing.event IS NULL
)
UPDATE spends
SET state = CASE WHEN spends.state = 'open' THEN 'closed' ELSE spends.state END,
    event = CASE WHEN spends.state = 'open' THEN closing.event ELSE spends.event END,
    due_at = CASE WHEN spends.state = 'open' THEN clock_timestamp() ELSE due_at END,
    amount_usd = CASE WHEN spends.state = 'open' THEN closing.amount ELSE spends.amount_usd END,
    vectors = closing.vectors
FROM closing
WHERE spends.spender = closing.spender AND spends.ordinal = closing.ordinal AND closing.event IS NOT NULL
"""
_ABANDON = """
UPDATE spends SET due_at = clock_timestamp()
WHERE lane = %(lane)s AND state = 'open' AND told_at IS NULL AND due_at > clock_timestamp()
"""
# The second condition is that of the index, which has no lane but replays'. What is told stays in the sum.
SPENT = """
SELECT coalesce(sum(amount_usd), 0) FROM spends WHERE lane = %(lane)s AND lane LIKE 'replay-%%'
"""
_TAKE = """
UPDATE spends
SET state = CASE WHEN state = 'open' THEN 'lost' ELSE state END,
    due_at = clock_timestamp() + make_interval(secs => %(hold_s)s)
WHERE (spender, ordinal) IN (
    SELECT spender, ordinal FROM spends
    WHERE lane = %(lane)s AND told_at IS NULL AND due_at <= clock_timestamp()
    ORDER BY due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING spender, ordinal, event
"""
_TOLD = """
UPDATE spends SET told_at = clock_timestamp(), event = NULL
FROM unnest(%(spenders)s::uuid[], %(ordinals)s::integer[]) AS told (spender, ordinal)
WHERE spends.spender = told.spender AND spends.ordinal = told.ordinal
"""
