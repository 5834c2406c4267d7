"""The semantic cache's look-up among many questions: by its index, and each compared, on the embedded Postgres.

``python -m tests.bench.nearest [--questions N] [--scopes 1,200]`` prints one JSON object for each number of scopes that
the questions are spread over. Vectors are of 384 dimensions in clusters, as questions on a few hundred subjects are; a
look-up asks for a question near one that is there. ``missed``: look-ups whose nearest question the index did not find.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from processors.cache.port import Wish
from processors.cache.postgres import PostgresCacheStore
from processors.embeddings import Vector
from processors.journal import CallKey
from processors.postgres import Database
from tests.support.stack import TestStack

DIMENSION = 384
SUBJECTS = 300
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def near(vector: NDArray[np.float64], spread: float, random: np.random.Generator) -> Vector:
    """A unit vector about so far from this one."""
    moved = vector + spread * random.standard_normal(DIMENSION) / np.sqrt(DIMENSION)
    return np.asarray(moved / np.linalg.norm(moved), dtype=np.float32)


def key_of(number: int) -> bytes:
    return hashlib.sha256(f"question {number}".encode()).digest()


def scope_of(number: int, scopes: int) -> bytes:
    return hashlib.sha256(f"{scopes}, {number % scopes}".encode()).digest()


async def fill(database: Database, vectors: Sequence[Vector], scopes: int) -> float:
    """Put the questions there with answers that are fresh; seconds for the vectors alone."""
    await database.execute("TRUNCATE cache_entries, cache_vectors, calls CASCADE")
    await database.execute(
        "INSERT INTO calls (call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash, input, state, result)"
        " SELECT gen_random_uuid(), 'bench', 'bench', '', n::text, 'completion', 0, '', '', 'done', 'an answer'"
        " FROM generate_series(0, %s - 1) AS n",
        (len(vectors),),
    )
    keys = [key_of(number) for number in range(len(vectors))]
    await database.execute(
        "INSERT INTO cache_entries (cache_key, tenant, lane, route, call_id, lease_until)"
        " SELECT k.key, 'bench', 'bench', 'default', call_id, now()"
        " FROM unnest(%s::bytea[]) WITH ORDINALITY AS k (key, n) JOIN calls ON request_id = (k.n - 1)::text",
        (keys,),
    )
    began = time.perf_counter()
    for start in range(0, len(vectors), 500):
        numbers = range(start, min(start + 500, len(vectors)))
        await database.execute(
            "INSERT INTO cache_vectors (cache_key, scope_key, embedding)"
            " SELECT key, scope, vector::vector"
            " FROM unnest(%s::bytea[], %s::bytea[], %s::text[]) AS v (key, scope, vector)",
            (
                [keys[number] for number in numbers],
                [scope_of(number, scopes) for number in numbers],
                [str(vectors[number].tolist()) for number in numbers],
            ),
        )
    spent = time.perf_counter() - began
    await database.execute("ANALYZE cache_vectors")
    return spent


async def measure(database: Database, questions: int, scopes: int, asked: int) -> dict[str, Any]:
    random = np.random.default_rng(7)
    subjects = [random.standard_normal(DIMENSION) for _ in range(SUBJECTS)]
    subjects = [one / np.linalg.norm(one) for one in subjects]
    vectors = [near(subjects[number % SUBJECTS], 0.6, random) for number in range(questions)]
    filling_s = await fill(database, vectors, scopes)
    store, matrix = PostgresCacheStore(database), np.stack(vectors)
    missed, by_index, exact_ms = 0, [], []
    for turn in range(asked):
        number = int(random.integers(questions))
        scope, vector = scope_of(number, scopes), near(vectors[number].astype(np.float64), 0.2, random)
        key = CallKey(tenant="bench", lane="bench", run="", request_id=f"asked {turn}")
        wish = Wish(key=key_of(-1 - turn), call=key, route="default", fresh_after=LONG_AGO, lease_s=15.0)
        began = time.perf_counter()
        found = await store.nearest(wish, scope, vector)
        by_index.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        await database.execute(
            "SELECT count(*) FROM (SELECT embedding <=> %s::vector AS d FROM cache_vectors WHERE scope_key = %s"
            " ORDER BY created_at DESC OFFSET 0) AS all_of_them WHERE d < 0.05",
            (str(vector.tolist()), scope),
        )
        exact_ms.append((time.perf_counter() - began) * 1000)
        best = float((matrix[number % scopes :: scopes] @ vector).max())
        missed += found is None or found.similarity < best - 1e-3
    return {
        "questions": questions,
        "scopes": scopes,
        "asked": asked,
        "missed": missed,
        "lookup_ms": spread_of(by_index),
        "each_compared_ms": spread_of(exact_ms),
        "remembering_ms": round(filling_s / questions * 1000, 2),
    }


def spread_of(times_ms: list[float]) -> dict[str, float]:
    ordered = sorted(times_ms)
    return {"p50": round(ordered[len(ordered) // 2], 1), "p95": round(ordered[int(len(ordered) * 0.95)], 1)}


async def run(dsn: str, questions: int, scopes: Sequence[int], asked: int) -> None:
    database = await Database.open(dsn)
    for number in scopes:
        print(json.dumps(await measure(database, questions, number, asked)), flush=True)  # noqa: T201
    await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--scopes", default="1,20,2000", help="how many scopes they are spread over, by commas")
    parser.add_argument("--asked", type=int, default=200)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hr-"))
    folder.chmod(0o755)
    stack = TestStack(folder)
    try:
        scopes = [int(one) for one in arguments.scopes.split(",")]
        asyncio.run(run(stack.postgres_dsn, arguments.questions, scopes, arguments.asked))
    finally:
        stack.close()


if __name__ == "__main__":
    main()
