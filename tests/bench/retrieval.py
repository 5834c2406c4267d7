"""How well the index finds: recall on questions with known passages, on the embedded stack and its embedding model.

``python -m tests.bench.retrieval [--queries N] [--k 5]`` prints one JSON object. All queries by default: 150 of them
gave 1.000 where all give less. ``shuffled`` is the same with other questions' passages as gold, and has to be near 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from processors.embeddings import EmbeddingPolicy, OpenAIEmbedder
from processors.event import Incoming
from processors.index import Index, IndexPolicy
from processors.passages import Search
from processors.passages_pg import PgPassages
from processors.postgres import Database
from streams.loading import Owner, build_document
from tests.support.stack import TestStack

DATA = Path(__file__).parents[3] / "shared" / "data" / "rag_wiki_qa"
TENANT = "bench-retrieval"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def measure(stack: TestStack, queries: int, k: int) -> dict[str, Any]:
    database = await Database.open(stack.postgres_dsn)
    policy = EmbeddingPolicy(model=stack.embeddings_model, dimension=384)
    embedder = OpenAIEmbedder(policy, base_url=stack.embeddings_url, api_key="none")
    store = PgPassages(database)
    stage = Index(store, embedder, policy=IndexPolicy())
    owner, corpus = Owner(tenant=TENANT), rows(DATA / "corpus.jsonl")
    started = time.perf_counter()
    gate = asyncio.Semaphore(2)

    async def index(offset: int, row: dict[str, Any]) -> None:
        document = build_document(owner, row["_id"], row["text"], title=row["title"])
        async with gate:
            await stage(
                Incoming(
                    record=document, meta=document.meta, raw=b"", appended_at=datetime.now(UTC), position=(0, offset)
                )
            )

    await asyncio.gather(*(index(offset, row) for offset, row in enumerate(corpus)))
    indexed_s = time.perf_counter() - started

    asked = rows(DATA / "public" / "queries.jsonl")
    if queries:
        asked = asked[:: max(1, len(asked) // queries)][:queries]
    found = shuffled = 0.0
    others = [query["gold"] for query in asked]
    random.Random(1).shuffle(others)
    durations = []
    for query, other in zip(asked, others, strict=True):
        began = time.perf_counter()
        [vector] = await embedder.embed([query["text"]])
        hits = await store.search(
            # Several passages of one document count once, so more are asked for.
            Search(tenant=TENANT, namespaces=("default",), vector=vector, embedding_model=embedder.model, k=3 * k)
        )
        durations.append(time.perf_counter() - began)
        documents = list(dict.fromkeys(hit.document_id for hit in hits))[:k]
        found += len(set(query["gold"]) & set(documents)) / len(query["gold"])
        shuffled += len(set(other) & set(documents)) / len(other)
    await embedder.close()
    await database.close()
    durations.sort()
    return {
        "documents": len(corpus),
        "queries": len(asked),
        f"recall@{k}": round(found / len(asked), 4),
        "shuffled": round(shuffled / len(asked), 4),
        "indexing_s": round(indexed_s, 1),
        "query_ms": {
            "p50": round(durations[len(durations) // 2] * 1000, 1),
            "p95": round(durations[int(len(durations) * 0.95)] * 1000, 1),
        },
        "index_version": stage.index_version,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=0, help="how many; 0 for all")
    parser.add_argument("--k", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hr-"))
    folder.chmod(0o755)
    stack = TestStack(folder)
    try:
        print(json.dumps(asyncio.run(measure(stack, arguments.queries, arguments.k))))  # noqa: T201
    finally:
        stack.close()


if __name__ == "__main__":
    main()
