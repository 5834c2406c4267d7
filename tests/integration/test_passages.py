"""The passage store on real Postgres with pgvector."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from processors.embeddings import HashingEmbedder, Vector
from processors.passages import DocumentKey, DocumentState, FakePassages, NewPassage, PassageStore, Position, Search
from processors.passages_pg import PgPassages
from processors.postgres import Database
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "hashing"
GENERATOR = np.random.default_rng(7)


@pytest.fixture(params=["postgres", "fake"])
async def store(request: pytest.FixtureRequest, database: Database) -> PassageStore:
    return PgPassages(database) if request.param == "postgres" else FakePassages()


def key(tenant: str, document_id: str = "d", namespace: str = "default") -> DocumentKey:
    return DocumentKey(tenant=tenant, namespace=namespace, document_id=document_id)


def state(
    key: DocumentKey,
    offset: int = 0,
    *,
    content: str = "c",
    lane: str = "live",
    partition: int = 0,
    minutes: int = 0,
    deleted: bool = False,
    **metadata: str,
) -> DocumentState:
    return DocumentState(
        key=key,
        position=Position(
            lane=lane, partition=partition, offset=offset, appended_at=START + timedelta(minutes=minutes)
        ),
        digest=content,
        content_digest=content,
        index_version="v1",
        title="A title",
        uri="file:a",
        metadata=metadata,
        deleted=deleted,
    )


def vector() -> Vector:
    return GENERATOR.standard_normal(384).astype(np.float32)


def passage(key: DocumentKey, ordinal: int, embedding: Vector, text: str = "text") -> NewPassage:
    return NewPassage(
        passage_id=f"{key.tenant}/{key.namespace}/{key.document_id}/{ordinal}",
        ordinal=ordinal,
        start_char=ordinal * 10,
        end_char=ordinal * 10 + len(text),
        text=text,
        digest=f"digest {text}",
        embedded_digest=f"embedded {text} {ordinal}",
        vector=embedding,
    )


def search(tenant: str, embedding: Vector, k: int = 5, *namespaces: str, **filters: str) -> Search:
    return Search(
        tenant=tenant,
        namespaces=namespaces or ("default",),
        vector=embedding,
        embedding_model=MODEL,
        k=k,
        filters=filters,
    )


async def texts(store: PassageStore, tenant: str) -> list[str]:
    return sorted(hit.text for hit in await store.search(search(tenant, vector(), 50)))


async def test_a_stored_passage_is_found_with_all_it_carries(store: PassageStore, lane: str) -> None:
    where, wanted = key(lane), vector()
    await store.replace(state(where), MODEL, [passage(where, 0, vector()), passage(where, 1, wanted, "the one")])

    best, other = await store.search(search(lane, wanted))

    assert (best.text, best.digest, best.title, best.uri) == ("the one", "digest the one", "A title", "file:a")
    assert (best.start_char, best.end_char, best.document_digest, best.index_version) == (10, 17, "c", "v1")
    assert best.score == pytest.approx(1.0, abs=1e-6)
    assert other.score < best.score


async def test_vectors_come_back_bit_for_bit(store: PassageStore, lane: str) -> None:
    where, used, kept = key(lane), vector(), vector()
    await store.replace(state(where), MODEL, [passage(where, 0, used)])
    await store.keep(where, MODEL, {"kept": kept})

    found = await store.vectors(where, MODEL)

    assert set(found) == {"embedded text 0", "kept"}
    assert np.array_equal(found["embedded text 0"], used)
    assert np.array_equal(found["kept"], kept)
    assert not await store.vectors(where, "another model")


async def test_kept_vectors_are_gone_once_the_passages_are_replaced(store: PassageStore, lane: str) -> None:
    where = key(lane)
    await store.keep(where, MODEL, {"kept": vector()})
    await store.replace(state(where), MODEL, [])
    assert not await store.vectors(where, MODEL)


async def test_an_older_record_does_not_replace_a_newer_one(store: PassageStore, lane: str) -> None:
    where = key(lane)
    assert await store.replace(state(where, 7, content="new"), MODEL, [passage(where, 0, vector(), "new")])
    # Appended later by a clock that was off: within a partition the offset decides.
    assert not await store.replace(state(where, 6, content="old", minutes=60), MODEL, [])
    assert await texts(store, lane) == ["new"]


async def test_between_partitions_and_lanes_the_append_time_decides(store: PassageStore, lane: str) -> None:
    where = key(lane)
    assert await store.replace(state(where, 900, minutes=1), MODEL, [passage(where, 0, vector(), "first")])
    assert await store.replace(state(where, 3, partition=2, minutes=2), MODEL, [passage(where, 0, vector(), "second")])
    assert not await store.replace(state(where, 901, lane="bulk", minutes=1), MODEL, [])
    assert await texts(store, lane) == ["second"]


async def test_a_tombstone_keeps_an_older_record_from_coming_back(store: PassageStore, lane: str) -> None:
    where = key(lane)
    await store.replace(state(where, 1), MODEL, [passage(where, 0, vector())])
    await store.replace(state(where, 2, deleted=True), MODEL, [])

    assert not await store.replace(state(where, 1), MODEL, [passage(where, 0, vector())])

    assert await texts(store, lane) == []
    stored = await store.document(where)
    assert stored is not None and stored.deleted


async def test_a_repeated_content_moves_the_position_on(store: PassageStore, lane: str) -> None:
    where = key(lane)
    await store.replace(state(where, 1, content="a"), MODEL, [passage(where, 0, vector(), "a")])
    assert await store.confirm(state(where, 5, content="a"))
    assert not await store.replace(state(where, 3, content="b"), MODEL, [passage(where, 0, vector(), "b")])
    assert not await store.confirm(state(where, 6, content="b"))
    assert await texts(store, lane) == ["a"]


async def test_only_the_tenants_namespaces_and_matching_metadata_are_searched(store: PassageStore, lane: str) -> None:
    other = f"{lane}x"
    for tenant, namespace, product in (
        (lane, "default", "a"),
        (lane, "default", "b"),
        (lane, "legal", "a"),
        (other, "default", "a"),
    ):
        where = key(tenant, f"{namespace}-{product}", namespace)
        await store.replace(state(where, product=product), MODEL, [passage(where, 0, vector(), where.document_id)])

    assert await texts(store, lane) == ["default-a", "default-b"]
    both = await store.search(search(lane, vector(), 9, "default", "legal", product="a"))
    assert sorted(hit.document_id for hit in both) == ["default-a", "legal-a"]


async def test_passages_below_the_minimum_score_are_left_out(store: PassageStore, lane: str) -> None:
    where, wanted = key(lane), vector()
    await store.replace(state(where), MODEL, [passage(where, 0, wanted, "near"), passage(where, 1, -wanted, "far")])
    found = await store.search(
        Search(tenant=lane, namespaces=("default",), vector=wanted, embedding_model=MODEL, k=5, minimum_score=0.5)
    )
    assert [hit.text for hit in found] == ["near"]


async def test_a_failed_replacement_leaves_the_old_passages(database: Database, lane: str) -> None:
    store, where = PgPassages(database), key(lane)
    await store.replace(state(where, 1), MODEL, [passage(where, 0, vector(), "old")])
    clash = [passage(where, 0, vector(), "new"), passage(where, 0, vector(), "new")]

    with pytest.raises(psycopg.errors.UniqueViolation):
        await store.replace(state(where, 2), MODEL, clash)

    assert await texts(store, lane) == ["old"]
    stored = await store.document(where)
    assert stored is not None and stored.position.offset == 1


async def test_of_many_writers_at_once_the_latest_record_wins(database: Database, lane: str) -> None:
    store, where = PgPassages(database), key(lane)

    async def write(offset: int) -> None:
        await store.replace(
            state(where, offset, content=str(offset)), MODEL, [passage(where, 0, vector(), f"v{offset}")]
        )

    await asyncio.gather(*(write(int(offset)) for offset in np.random.default_rng(3).permutation(30)))

    assert await texts(store, lane) == ["v29"]


# What the planner does by itself once there are many passages: take the graph rather than sort what a tenant has.
THROUGH_THE_GRAPH = "-c enable_sort=off"


@pytest.mark.parametrize("limit", ["-c hnsw.max_scan_tuples=20000", "-c hnsw.max_scan_tuples=1"])
async def test_a_small_tenant_is_not_starved_by_large_ones(stack: TestStack, lane: str, limit: str) -> None:
    """800 passages of three tenants. The smallest holds 12 that are far from every query: a scan of the graph that
    goes no further than the nearest passages of all tenants sees none of them."""
    dsn = make_conninfo(stack.postgres_dsn, options=f"{THROUGH_THE_GRAPH} {limit}")
    database = await Database.open(dsn)
    store, truth = PgPassages(database), FakePassages()
    centre = 3 * vector()
    sizes = {f"{lane}-a": 500, f"{lane}-b": 288, f"{lane}-c": 12}
    for tenant, size in sizes.items():
        where, middle = key(tenant), -centre if tenant.endswith("c") else centre
        many = [passage(where, n, (middle + vector()).astype(np.float32), f"{tenant} {n}") for n in range(size)]
        for each in (store, truth):
            await each.replace(state(where), MODEL, many)

    assert "passages_embedding" in await _plan(database, lane)
    found = wanted = 0
    for tenant in sizes:
        for _ in range(10):
            query = search(tenant, (centre + vector()).astype(np.float32), 10)
            exact = {hit.passage_id for hit in await truth.search(query)}
            hits = {hit.passage_id for hit in await store.search(query)}
            assert all(hit.startswith(f"{tenant}/") for hit in hits)
            found, wanted = found + len(exact & hits), wanted + len(exact)
    await database.close()
    assert wanted == 300
    assert found / wanted >= 0.99, f"recall {found / wanted:.3f}"


async def _plan(database: Database, tenant: str) -> str:
    literal = "[" + ",".join("0.5" for _ in range(384)) + "]"
    rows = await database.execute(
        "EXPLAIN SELECT passage_id FROM passages WHERE tenant = %s AND namespace = ANY(%s)"
        " ORDER BY embedding <=> %s::vector LIMIT 5",
        (tenant, ["default"], literal),
    )
    return "\n".join(row[0] for row in rows)


async def test_the_fake_embedder_is_deterministic() -> None:
    first, second = await HashingEmbedder().embed(["one two", "one two"])
    assert np.array_equal(first, second)


async def test_a_search_as_of_a_moment_finds_what_was_there_then(database: Database, lane: str) -> None:
    store, where, near = PgPassages(database), key(lane), vector()

    async def found(as_of: datetime | None) -> list[str]:
        hits = await store.search(replace(search(lane, near), as_of=as_of))
        return sorted(hit.text for hit in hits)

    async def stored(offset: int, content: str, *, deleted: bool = False) -> datetime:
        passages = [] if deleted else [passage(where, 0, near, content), passage(where, 1, vector(), f"{content} too")]
        assert await store.replace(state(where, offset, content=content, deleted=deleted), MODEL, passages)
        return await database.now()

    never = await database.now()
    first, second = await stored(1, "first"), await stored(2, "second")
    gone = await stored(3, "", deleted=True)
    moments = (never, first, second, gone, None)
    assert [await found(one) for one in moments] == [[], ["first", "first too"], ["second", "second too"], [], []]
    history = await store.history()
    assert "v1" in history.versions and history.since <= first

    # What is purged is not searched in silence: the history begins after it.
    await database.execute("DELETE FROM superseded_passages WHERE tenant = %s AND superseded_at < %s", (lane, second))
    assert first < (await store.history()).since <= second
