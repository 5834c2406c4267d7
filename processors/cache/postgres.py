"""The caches' store in Postgres: ``cache_entries`` name calls of the journal, whose results are the cached answers.

So a result is in the cache with the transaction that books it, and nothing is stored twice.
"""

from __future__ import annotations

from typing import Any

from processors.cache.port import OWN_FAILURES, Failed, Found, Free, Near, Own, Taken, Waiting, Wish
from processors.embeddings import Vector
from processors.postgres import Connection, Database

# So many of the nearest questions are looked at for one whose answer is there and fresh.
NEAREST_LOOKED_AT = 20
# A question is there before its call, which takes no longer: older ones have no fresh answer.
LONGEST_CALL_S = 3_600
# The index gives what is near over all scopes, so it is read on until so many of this one have come, or this many were
# looked at. A small scope's questions are all compared instead, as the planner sees from its statistics.
# https://github.com/pgvector/pgvector#iterative-index-scans
SCAN = """
SELECT set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', '100', true),
       set_config('hnsw.max_scan_tuples', '20000', true), set_config('plan_cache_mode', 'force_custom_plan', true),
       set_config('synchronous_commit', 'off', true)
"""

_ENDED = "calls.state IN ('done', 'failed', 'unknown')"
# An item that waits for its batch has no call yet.
_BATCHED = """EXISTS (
    SELECT FROM batch_items AS item
    WHERE item.call_id = entry.call_id AND item.state IN ('waiting', 'taken', 'sent', 'answered'))"""

# Nothing is lost with an entry but a saving, so its commit needs no disk.
JOIN = f"""
WITH own AS (
    SELECT FROM calls WHERE call_id = %(call_id)s AND {_ENDED}
), taken AS (
    INSERT INTO cache_entries AS entry (cache_key, tenant, lane, route, call_id, lease_until)
    SELECT %(key)s, %(tenant)s, %(lane)s, %(route)s, %(call_id)s,
           clock_timestamp() + make_interval(secs => %(lease_s)s)
    WHERE NOT EXISTS (SELECT FROM own)
    ON CONFLICT (cache_key) DO UPDATE
    SET call_id = excluded.call_id, lease_until = excluded.lease_until, created_at = clock_timestamp()
    WHERE entry.call_id = excluded.call_id OR (
        NOT EXISTS (
            SELECT FROM calls WHERE calls.call_id = entry.call_id AND (
                (state = 'done' AND updated_at >= %(fresh_after)s)
                OR (state = 'calling' AND calls.lease_until > clock_timestamp())))
        AND NOT {_BATCHED}
        AND (entry.lease_until <= clock_timestamp()
             OR EXISTS (SELECT FROM calls WHERE calls.call_id = entry.call_id AND {_ENDED})))
    RETURNING set_config('synchronous_commit', 'off', true)
)
SELECT EXISTS (SELECT FROM own), EXISTS (SELECT FROM taken), entry.call_id, calls.state,
       CASE WHEN calls.updated_at >= %(fresh_after)s AND NOT EXISTS (SELECT FROM taken) THEN calls.result END,
       calls.updated_at, extract(epoch FROM greatest(calls.lease_until, entry.lease_until) - clock_timestamp()),
       {_BATCHED}
FROM (VALUES (%(key)s::bytea)) AS wished (cache_key)
LEFT JOIN cache_entries AS entry USING (cache_key) LEFT JOIN calls USING (call_id)
"""

LOOK = f"""
SELECT entry.call_id, calls.state, CASE WHEN calls.updated_at >= %(fresh_after)s THEN calls.result END,
       calls.updated_at,
       coalesce(calls.state = 'calling' AND calls.lease_until > clock_timestamp(), false)
       OR (entry.lease_until > clock_timestamp() AND NOT coalesce({_ENDED}, false)),
       {_BATCHED},
       extract(epoch FROM greatest(calls.lease_until, entry.lease_until) - clock_timestamp()),
       (SELECT CASE WHEN failure->>'code' = ANY(%(own_codes)s) THEN 'reserved' ELSE state END
        FROM calls WHERE call_id = %(awaited)s)
FROM cache_entries AS entry LEFT JOIN calls USING (call_id) WHERE entry.cache_key = %(key)s
"""

LEAVE = "DELETE FROM cache_entries WHERE cache_key = %(key)s AND call_id = %(call_id)s"

NEAREST = """
WITH nearest AS MATERIALIZED (
    SELECT cache_key, embedding <=> %(vector)s::vector AS distance FROM cache_vectors
    WHERE scope_key = %(scope)s AND cache_key <> %(key)s
      AND created_at >= %(fresh_after)s::timestamptz - make_interval(secs => %(longest_s)s)
    ORDER BY embedding <=> %(vector)s::vector LIMIT %(most)s
)
SELECT calls.result, calls.updated_at, 1 - nearest.distance
FROM nearest JOIN cache_entries USING (cache_key) JOIN calls USING (call_id)
WHERE calls.state = 'done' AND calls.updated_at >= %(fresh_after)s
ORDER BY nearest.distance LIMIT 1
"""

REMEMBER = """
INSERT INTO cache_vectors (cache_key, scope_key, embedding)
SELECT cache_key, %(scope)s, %(vector)s::vector FROM cache_entries WHERE cache_key = %(key)s FOR KEY SHARE
ON CONFLICT (cache_key) DO UPDATE SET created_at = clock_timestamp()
"""


class PostgresCacheStore:
    """A ``CacheStore`` that every worker shares. Leases are measured by the database's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def join(self, wish: Wish) -> Found | Taken | Own | Waiting:
        rows = await self._database.execute(JOIN, _parameters(wish))
        own, taken, call_id, state, result, updated_at, remaining_s, batched = rows[0]
        if own:
            return Own()
        if taken:
            return Taken()
        if state == "done" and result is not None:
            return Found(result=result, at=updated_at)
        # An entry that was made since this statement began is not seen by it; it is there at the next look.
        return Waiting(str(call_id or ""), max(0.0, float(remaining_s or 0.0)), batched)

    async def look(self, wish: Wish, call_id: str) -> Found | Waiting | Failed | Free:
        parameters = _parameters(wish) | {"awaited": call_id or None, "own_codes": list(OWN_FAILURES)}
        rows = await self._database.execute(LOOK, parameters)
        if not rows:
            return Free()
        now_id, state, result, updated_at, open_, batched, remaining_s, awaited = rows[0]
        if state == "done" and result is not None:
            return Found(result=result, at=updated_at)
        if awaited in ("failed", "unknown"):
            return Failed()
        return Waiting(str(now_id), max(0.0, float(remaining_s or 0.0)), batched) if open_ or batched else Free()

    async def leave(self, wish: Wish) -> None:
        await self._database.execute(LEAVE, {"key": wish.key, "call_id": wish.call.call_id})

    async def nearest(self, wish: Wish, scope: bytes, vector: Vector) -> Near | None:
        parameters = _parameters(wish) | {
            "scope": scope,
            "vector": str(vector.tolist()),
            "most": NEAREST_LOOKED_AT,
            "longest_s": LONGEST_CALL_S,
        }

        async def work(connection: Connection) -> tuple[Any, ...] | None:
            # In one round trip.
            async with connection.pipeline():
                await connection.execute(SCAN)
                found = await connection.execute(NEAREST, parameters)
                await connection.execute(REMEMBER, parameters)
            return await found.fetchone()

        row = await self._database.run(work)
        if row is None:
            return None
        result, updated_at, similarity = row
        return Near(found=Found(result=result, at=updated_at), similarity=float(similarity))


def _parameters(wish: Wish) -> dict[str, Any]:
    return {
        "key": wish.key,
        "tenant": wish.call.tenant,
        "lane": wish.call.lane,
        "route": wish.route,
        "call_id": wish.call.call_id,
        "fresh_after": wish.fresh_after,
        "lease_s": wish.lease_s,
    }
