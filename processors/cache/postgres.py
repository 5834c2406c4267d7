"""The caches' store in Postgres: ``cache_entries`` name calls of the journal, whose results are the cached answers.

So a result is in the cache with the transaction that books it, and nothing is stored twice.
"""

from __future__ import annotations

from typing import Any

from processors.cache.port import OWN_FAILURES, Failed, Found, Free, Near, Own, Taken, Waiting, Wish
from processors.embeddings import Vector
from processors.postgres import Database

# The newest questions of a scope are compared one by one: about 10 ms for so many at 384 dimensions.
MOST_COMPARED = 5_000

_ENDED = "calls.state IN ('done', 'failed', 'unknown')"

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
        AND (entry.lease_until <= clock_timestamp()
             OR EXISTS (SELECT FROM calls WHERE calls.call_id = entry.call_id AND {_ENDED})))
    RETURNING set_config('synchronous_commit', 'off', true)
)
SELECT EXISTS (SELECT FROM own), EXISTS (SELECT FROM taken), entry.call_id, calls.state,
       CASE WHEN calls.updated_at >= %(fresh_after)s AND NOT EXISTS (SELECT FROM taken) THEN calls.result END,
       calls.updated_at, extract(epoch FROM greatest(calls.lease_until, entry.lease_until) - clock_timestamp())
FROM (VALUES (%(key)s::bytea)) AS wished (cache_key)
LEFT JOIN cache_entries AS entry USING (cache_key) LEFT JOIN calls USING (call_id)
"""

LOOK = f"""
SELECT entry.call_id, calls.state, CASE WHEN calls.updated_at >= %(fresh_after)s THEN calls.result END,
       calls.updated_at,
       coalesce(calls.state = 'calling' AND calls.lease_until > clock_timestamp(), false)
       OR (entry.lease_until > clock_timestamp() AND NOT coalesce({_ENDED}, false)),
       extract(epoch FROM greatest(calls.lease_until, entry.lease_until) - clock_timestamp()),
       (SELECT CASE WHEN failure->>'code' = ANY(%(own_codes)s) THEN 'reserved' ELSE state END
        FROM calls WHERE call_id = %(awaited)s)
FROM cache_entries AS entry LEFT JOIN calls USING (call_id) WHERE entry.cache_key = %(key)s
"""

LEAVE = "DELETE FROM cache_entries WHERE cache_key = %(key)s AND call_id = %(call_id)s"

NEAREST = """
WITH remembered AS (
    INSERT INTO cache_vectors (cache_key, scope_key, embedding)
    SELECT cache_key, %(scope)s, %(vector)s::vector FROM cache_entries WHERE cache_key = %(key)s FOR KEY SHARE
    ON CONFLICT (cache_key) DO UPDATE SET created_at = clock_timestamp()
    RETURNING set_config('synchronous_commit', 'off', true)
), newest AS (
    SELECT cache_key, embedding <=> %(vector)s::vector AS distance FROM cache_vectors
    WHERE scope_key = %(scope)s AND cache_key <> %(key)s ORDER BY created_at DESC LIMIT %(most)s
)
SELECT calls.result, calls.updated_at, 1 - newest.distance
FROM newest JOIN cache_entries USING (cache_key) JOIN calls USING (call_id)
WHERE calls.state = 'done' AND calls.updated_at >= %(fresh_after)s
ORDER BY newest.distance LIMIT 1
"""


class PostgresCacheStore:
    """A ``CacheStore`` that every worker shares. Leases are measured by the database's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def join(self, wish: Wish) -> Found | Taken | Own | Waiting:
        rows = await self._database.execute(JOIN, _parameters(wish))
        own, taken, call_id, state, result, updated_at, remaining_s = rows[0]
        if own:
            return Own()
        if taken:
            return Taken()
        if state == "done" and result is not None:
            return Found(result=result, at=updated_at)
        # An entry that was made since this statement began is not seen by it; it is there at the next look.
        return Waiting(str(call_id or ""), max(0.0, float(remaining_s or 0.0)))

    async def look(self, wish: Wish, call_id: str) -> Found | Waiting | Failed | Free:
        parameters = _parameters(wish) | {"awaited": call_id or None, "own_codes": list(OWN_FAILURES)}
        rows = await self._database.execute(LOOK, parameters)
        if not rows:
            return Free()
        now_id, state, result, updated_at, open_, remaining_s, awaited = rows[0]
        if state == "done" and result is not None:
            return Found(result=result, at=updated_at)
        if awaited in ("failed", "unknown"):
            return Failed()
        return Waiting(str(now_id), max(0.0, float(remaining_s or 0.0))) if open_ else Free()

    async def leave(self, wish: Wish) -> None:
        await self._database.execute(LEAVE, {"key": wish.key, "call_id": wish.call.call_id})

    async def nearest(self, wish: Wish, scope: bytes, vector: Vector) -> Near | None:
        parameters = _parameters(wish) | {"scope": scope, "vector": str(vector.tolist()), "most": MOST_COMPARED}
        rows = await self._database.execute(NEAREST, parameters)
        if not rows:
            return None
        result, updated_at, similarity = rows[0]
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
