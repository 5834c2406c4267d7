"""Token buckets in Postgres: the same arithmetic in one statement, by the database's clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from processors.admit.buckets import Draw, Drawn
from processors.postgres import Database


class PostgresBuckets:
    """Buckets in the table ``rate_buckets``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def draw(self, draws: Sequence[Draw]) -> Mapping[str, Drawn]:
        rows = await self._database.execute(DRAW, parameters_of(draws))
        return {bucket: Drawn(granted, available) for bucket, granted, available in rows}


def parameters_of(draws: Sequence[Draw]) -> dict[str, Any]:
    """What ``DRAW`` takes."""
    return {
        "buckets": [draw.bucket for draw in draws],
        "bursts": [float(draw.rate.burst) for draw in draws],
        "rates": [draw.rate.per_s for draw in draws],
        "musts": [float(draw.must) for draw in draws],
        "wishes": [float(draw.wish) for draw in draws],
        "returned": [float(draw.returned) for draw in draws],
    }


# In the order of names, so that two workers never wait for each other in a circle. A row that another one has locked is
# read after it was let go: its time may be later than this statement's, and then nothing is refilled.
DRAW = """
    INSERT INTO rate_buckets AS b (bucket, level, at, burst, per_s, must, wish, returned, available, granted)
    SELECT bucket, burst - must - greatest(0, least(wish, floor(burst - must))), clock_timestamp(), burst, per_s, must,
           wish, returned, burst, greatest(0, least(wish, floor(burst - must)))
    FROM unnest(%(buckets)s::text[], %(bursts)s::float8[], %(rates)s::float8[], %(musts)s::float8[],
                %(wishes)s::float8[], %(returned)s::float8[]) AS asked (bucket, burst, per_s, must, wish, returned)
    ORDER BY bucket
    ON CONFLICT (bucket) DO UPDATE
    SET burst = excluded.burst, per_s = excluded.per_s, must = excluded.must, wish = excluded.wish,
        returned = excluded.returned, at = greatest(b.at, excluded.at),
        (available, granted, level) = (
            SELECT found.available, given.granted, found.available - excluded.must - given.granted
            FROM (SELECT least(excluded.burst, b.level + excluded.returned + excluded.per_s
                               * extract(epoch FROM greatest(b.at, excluded.at) - b.at)::float8) AS available) AS found,
            LATERAL (SELECT greatest(0, least(excluded.wish, floor(found.available - excluded.must))) AS granted)
                AS given)
    RETURNING bucket, granted, available
"""
