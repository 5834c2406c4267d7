"""The nearest question is found among any number of others, in its own scope, and only where its answer is fresh."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from processors.cache.port import Wish
from processors.cache.postgres import NEAREST, PostgresCacheStore
from processors.embeddings import Vector
from processors.journal import CallKey
from processors.postgres import Database

pytestmark = pytest.mark.stack

DIMENSION = 384
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class Questions:
    """Questions of one lane with their answers. A vector that is turned by ``angle`` from the first axis."""

    def __init__(self, database: Database, lane: str) -> None:
        self.database, self.lane, self.store = database, lane, PostgresCacheStore(database)

    def vector(self, angle: float, axis: int = 1) -> Vector:
        found = np.zeros(DIMENSION, dtype=np.float32)
        found[0], found[axis] = np.cos(angle), np.sin(angle)
        return found

    async def add(self, name: str, scope: str, vector: Vector, *, at: datetime | None = None) -> None:
        at = at or datetime.now(UTC)
        parameters: dict[str, Any] = {
            "key": digest(f"{self.lane} {name}"),
            "scope": digest(f"{self.lane} {scope}"),
            "lane": self.lane,
            "name": name,
            "vector": str(vector.tolist()),
            "at": at,
        }
        await self.database.execute(
            "WITH call AS (INSERT INTO calls (call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash,"
            " input, state, result, updated_at) VALUES (gen_random_uuid(), 'acme', %(lane)s, '', %(name)s,"
            " 'completion', 0, '', '', 'done', convert_to(%(name)s, 'UTF8'), %(at)s) RETURNING call_id),"
            " entry AS (INSERT INTO cache_entries (cache_key, tenant, lane, route, call_id, lease_until)"
            " SELECT %(key)s, 'acme', %(lane)s, 'default', call_id, now() FROM call RETURNING cache_key)"
            " INSERT INTO cache_vectors (cache_key, scope_key, embedding, created_at)"
            " SELECT cache_key, %(scope)s, %(vector)s::vector, %(at)s FROM entry",
            parameters,
        )

    async def crowd(self, scope: str, size: int) -> None:
        """Others, far away from the first axis."""
        random = np.random.default_rng(3)
        vectors = random.uniform(0.1, 1.0, (size, DIMENSION)).astype(np.float32)
        parameters = {
            "keys": [digest(f"{self.lane} {scope} {number}") for number in range(size)],
            "vectors": [str(vector.tolist()) for vector in vectors],
            "lane": self.lane,
            "scope": digest(f"{self.lane} {scope}"),
        }
        await self.database.execute(
            "WITH entries AS (INSERT INTO cache_entries (cache_key, tenant, lane, route, call_id, lease_until)"
            " SELECT key, 'acme', %(lane)s, 'default', gen_random_uuid(), now()"
            " FROM unnest(%(keys)s::bytea[]) AS k (key)) SELECT 1",
            parameters,
        )
        await self.database.execute(
            "INSERT INTO cache_vectors (cache_key, scope_key, embedding)"
            " SELECT key, %(scope)s, vector::vector"
            " FROM unnest(%(keys)s::bytea[], %(vectors)s::text[]) AS v (key, vector)",
            parameters,
        )

    async def near(self, scope: str, vector: Vector, *, fresh_after: datetime = LONG_AGO) -> tuple[str, float] | None:
        key = CallKey(tenant="acme", lane=self.lane, run="", request_id="asking")
        wish = Wish(key=digest(f"{self.lane} asking"), call=key, route="default", fresh_after=fresh_after, lease_s=15.0)
        found = await self.store.nearest(wish, digest(f"{self.lane} {scope}"), vector)
        return None if found is None else (found.found.result.decode(), found.similarity)


async def test_the_nearest_of_many_is_found_in_its_scope_and_fresh(database: Database, lane: str) -> None:
    questions = Questions(database, lane)
    now = datetime.now(UTC)
    await questions.crowd("large", 300)
    await questions.add("near", "large", questions.vector(0.30))
    await questions.add("nearer, of another scope", "small", questions.vector(0.05))
    await questions.add("nearest, and old", "large", questions.vector(0.02), at=now - timedelta(days=2))
    await database.execute("ANALYZE cache_vectors")
    asked = questions.vector(0.0)
    fresh = {"fresh_after": now - timedelta(hours=1)}
    name, similarity = await questions.near("large", asked, **fresh) or ("", 0.0)
    assert (name, similarity) == ("near", pytest.approx(np.cos(0.30), abs=1e-4))
    assert (await questions.near("large", asked) or ("", 0.0))[0] == "nearest, and old"
    assert (await questions.near("small", asked, **fresh) or ("", 0.0))[0] == "nearer, of another scope"
    assert await questions.near("empty", asked) is None


async def test_old_questions_that_are_nearer_hide_no_fresh_one(database: Database, lane: str) -> None:
    questions = Questions(database, lane)
    now = datetime.now(UTC)
    for number in range(40):
        old = questions.vector(0.001 * number, axis=2 + number)
        await questions.add(f"old {number}", "scope", old, at=now - timedelta(days=2))
    await questions.add("fresh", "scope", questions.vector(0.2))
    found = await questions.near("scope", questions.vector(0.0), fresh_after=now - timedelta(hours=1))
    assert found is not None and found[0] == "fresh"


async def test_a_large_scope_goes_by_the_index_of_its_vectors(database: Database, lane: str) -> None:
    questions = Questions(database, lane)
    await questions.crowd("large", 500)
    await database.execute("ANALYZE cache_vectors")
    parameters: dict[str, Any] = {
        "scope": digest(f"{lane} large"),
        "key": b"",
        "vector": str(questions.vector(0.0).tolist()),
        "fresh_after": LONG_AGO,
        "longest_s": 3_600,
        "most": 20,
    }
    async with database.transaction() as connection:
        # With so few rows it is cheaper to compare them all: what counts is that the index can answer.
        await connection.execute("SET LOCAL enable_sort = off")
        rows = await (await connection.execute(b"EXPLAIN " + NEAREST.encode(), parameters)).fetchall()
    assert any("cache_vectors_embedding" in row[0] for row in rows), rows
