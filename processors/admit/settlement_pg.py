"""Settlements in Postgres: the request's row says that it was settled, in the transaction that moves its buckets."""

from __future__ import annotations

from collections.abc import Sequence

from processors.admit.buckets_pg import DRAW, parameters_of
from processors.admit.settlement import Used, differences
from processors.batching import Together
from processors.postgres import Connection, Database


class PostgresSettlement:
    """``Settlement`` over ``idempotency`` and ``rate_buckets``; those who ask together share a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._together = Together(self._settle)

    async def settle(self, used: Used) -> None:
        await self._together.ask(used)

    async def _settle(self, asked: Sequence[Used]) -> Sequence[None]:
        first = {(one.tenant, one.lane, one.request_id): one for one in asked}

        async def work(connection: Connection) -> None:
            ordered = sorted(first)
            parameters = {
                "tenants": [tenant for tenant, _, _ in ordered],
                "lanes": [lane for _, lane, _ in ordered],
                "keys": [request_id for _, _, request_id in ordered],
                "tokens": [first[key].tokens for key in ordered],
            }
            cursor = await connection.execute(_MARK, parameters)
            draws = differences(first[tenant, lane, key] for tenant, lane, key in await cursor.fetchall())
            if draws:
                await connection.execute(DRAW, parameters_of(draws))

        await self._database.run(work)
        return [None] * len(asked)


# Locked in the order of keys, so that two workers never wait for each other in a circle.
_MARK = """
WITH asked AS (
    SELECT * FROM unnest(%(tenants)s::text[], %(lanes)s::text[], %(keys)s::text[], %(tokens)s::bigint[])
        AS asked (tenant, lane, key, tokens)),
locked AS (
    SELECT i.tenant, i.lane, i.key FROM idempotency AS i JOIN asked USING (tenant, lane, key)
    WHERE i.scope = 'request' ORDER BY i.tenant, i.lane, i.key FOR UPDATE OF i)
UPDATE idempotency AS i SET tokens_used = asked.tokens
FROM asked JOIN locked USING (tenant, lane, key)
WHERE i.tenant = asked.tenant AND i.lane = asked.lane AND i.scope = 'request' AND i.key = asked.key
  AND i.tokens_used IS NULL AND i.ruling IN ('admitted', 'queued')
RETURNING i.tenant, i.lane, i.key
"""
