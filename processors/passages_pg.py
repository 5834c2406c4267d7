"""Passages in Postgres with pgvector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

import numpy as np
from psycopg.types.json import Jsonb

from processors.embeddings import Vector
from processors.passages import DocumentKey, DocumentState, History, Hit, NewPassage, Position, Search, ranked
from processors.postgres import Connection, Database

# Rows of one INSERT: a vector in the graph costs a few milliseconds, and a statement has 15 s.
_ROWS = 200


class PgPassages:
    """Passages in Postgres with pgvector: HNSW by cosine distance, scanned on until the filters leave ``k``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def document(self, key: DocumentKey) -> DocumentState | None:
        rows = await self._database.execute(
            'SELECT lane, partition, "offset", appended_at, digest, content_digest, index_version, title, uri, deleted'
            " FROM documents WHERE tenant = %s AND namespace = %s AND document_id = %s",
            _columns(key),
        )
        if not rows:
            return None
        lane, partition, offset, appended_at, digest, content_digest, index_version, title, uri, deleted = rows[0]
        return DocumentState(
            key=key,
            position=Position(lane=lane, partition=partition, offset=offset, appended_at=appended_at),
            digest=digest,
            content_digest=content_digest,
            index_version=index_version,
            title=title,
            uri=uri,
            deleted=deleted,
        )

    async def vectors(self, key: DocumentKey, embedding_model: str) -> Mapping[str, Vector]:
        columns = (*_columns(key), embedding_model)
        rows = await self._database.execute(
            "SELECT embedded_digest, embedding::real[] FROM passages"
            " WHERE tenant = %s AND namespace = %s AND document_id = %s AND embedding_model = %s"
            " UNION ALL SELECT embedded_digest, embedding::real[] FROM pending_vectors"
            " WHERE tenant = %s AND namespace = %s AND document_id = %s AND embedding_model = %s",
            columns + columns,
        )
        return {digest: np.asarray(vector, dtype=np.float32) for digest, vector in rows}

    async def keep(self, key: DocumentKey, embedding_model: str, vectors: Mapping[str, Vector]) -> None:
        await self._database.execute(
            "INSERT INTO pending_vectors (tenant, namespace, document_id, embedding_model, embedded_digest, embedding)"
            " SELECT %s, %s, %s, %s, digest, embedding::vector"
            " FROM unnest(%s::text[], %s::text[]) AS t(digest, embedding)"
            " ON CONFLICT DO NOTHING",
            (*_columns(key), embedding_model, list(vectors), [_literal(vector) for vector in vectors.values()]),
        )

    async def replace(self, state: DocumentState, embedding_model: str, passages: Sequence[NewPassage]) -> bool:
        async def work(connection: Connection) -> bool:
            if not await _claim(connection, state, len(passages)):
                return False
            await _clear(connection, state.key)
            for start in range(0, len(passages), _ROWS):
                await _insert(connection, state, embedding_model, passages[start : start + _ROWS])
            return True

        return await self._database.run(work)

    async def confirm(self, state: DocumentState) -> bool:
        position = state.position
        rows = await self._database.execute(
            'UPDATE documents AS d SET lane = %(lane)s, partition = %(partition)s, "offset" = %(offset)s,'
            " appended_at = %(appended_at)s"
            " WHERE tenant = %(tenant)s AND namespace = %(namespace)s AND document_id = %(document_id)s"
            " AND deleted = %(deleted)s AND content_digest = %(content_digest)s AND index_version = %(index_version)s"
            " AND CASE WHEN d.lane = %(lane)s AND d.partition = %(partition)s"
            ' THEN d."offset" <= %(offset)s ELSE d.appended_at <= %(appended_at)s END RETURNING 1',
            {
                **dict(zip(("tenant", "namespace", "document_id"), _columns(state.key), strict=True)),
                "lane": position.lane,
                "partition": position.partition,
                "offset": position.offset,
                "appended_at": position.appended_at,
                "deleted": state.deleted,
                "content_digest": state.content_digest,
                "index_version": state.index_version,
            },
        )
        return bool(rows)

    async def search(self, search: Search) -> list[Hit]:
        if not search.k or not search.namespaces:
            return []
        async with self._database.transaction() as connection:
            # With the filters inside the index scan, an approximate scan alone would starve small tenants.
            # https://github.com/pgvector/pgvector#iterative-index-scans
            await connection.execute(
                "SELECT set_config('hnsw.iterative_scan', 'strict_order', true),"
                " set_config('hnsw.ef_search', %s, true),"
                # A plan for any tenant would not see that this one is small enough to look at all of it.
                " set_config('plan_cache_mode', 'force_custom_plan', true)",
                (str(min(1000, max(100, 4 * search.k))),),
            )
            hits = await _nearest(connection, search)
            if len(hits) < search.k:
                # The scan ends after hnsw.max_scan_tuples: look at all that the filters leave, which is few.
                await connection.execute(
                    "SELECT set_config('enable_indexscan', 'off', true), set_config('enable_sort', 'on', true)"
                )
                hits = await _nearest(connection, search)
            if search.as_of is not None:
                hits += await _nearest(connection, search, superseded=True)
        return ranked(hits, search)

    async def history(self) -> History:
        [(since, versions)] = await self._database.execute(_HISTORY)
        return History(since, frozenset(versions))


async def _claim(connection: Connection, state: DocumentState, passages: int) -> bool:
    """Lock the document's row and make it ours, unless it is of a later record (``Position.before``, in SQL)."""
    position = state.position
    written = await connection.execute(
        "INSERT INTO documents AS d (tenant, namespace, document_id, digest, content_digest, index_version, title, uri,"
        ' passage_count, deleted, lane, partition, "offset", appended_at)'
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (tenant, namespace, document_id) DO UPDATE SET digest = excluded.digest,"
        " content_digest = excluded.content_digest, index_version = excluded.index_version, title = excluded.title,"
        " uri = excluded.uri, passage_count = excluded.passage_count, deleted = excluded.deleted,"
        ' lane = excluded.lane, partition = excluded.partition, "offset" = excluded."offset",'
        " appended_at = excluded.appended_at, indexed_at = now()"
        " WHERE CASE WHEN (d.lane, d.partition) = (excluded.lane, excluded.partition)"
        ' THEN d."offset" <= excluded."offset" ELSE d.appended_at <= excluded.appended_at END',
        (
            *_columns(state.key),
            *(state.digest, state.content_digest, state.index_version, state.title, state.uri, passages, state.deleted),
            *(position.lane, position.partition, position.offset, position.appended_at),
        ),
    )
    return written.rowcount == 1


async def _clear(connection: Connection, key: DocumentKey) -> None:
    for statement in (
        "DELETE FROM passages WHERE tenant = %s AND namespace = %s AND document_id = %s",
        "DELETE FROM pending_vectors WHERE tenant = %s AND namespace = %s AND document_id = %s",
    ):
        await connection.execute(statement, _columns(key))


async def _insert(
    connection: Connection, state: DocumentState, embedding_model: str, passages: Sequence[NewPassage]
) -> None:
    await connection.execute(
        "INSERT INTO passages (tenant, namespace, document_id, embedding_model, metadata, title, uri, document_digest,"
        " index_version, passage_id, ordinal, start_char, end_char, text, digest, embedded_digest, embedding)"
        " SELECT %s, %s, %s, %s, %s, %s, %s, %s, %s, p.passage_id, p.ordinal, p.start_char, p.end_char, p.text,"
        " p.digest, p.embedded_digest, p.embedding::vector"
        " FROM unnest(%s::text[], %s::int[], %s::int[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[])"
        " AS p(passage_id, ordinal, start_char, end_char, text, digest, embedded_digest, embedding)",
        (
            *_columns(state.key),
            embedding_model,
            Jsonb(dict(state.metadata)),
            *(state.title, state.uri, state.digest, state.index_version),
            [p.passage_id for p in passages],
            [p.ordinal for p in passages],
            [p.start_char for p in passages],
            [p.end_char for p in passages],
            [p.text for p in passages],
            [p.digest for p in passages],
            [p.embedded_digest for p in passages],
            [_literal(p.vector) for p in passages],
        ),
    )


async def _nearest(connection: Connection, search: Search, *, superseded: bool = False) -> list[Hit]:
    table: LiteralString = "superseded_passages" if superseded else "passages"
    # Passages without the column's value were there before the history began.
    there: LiteralString = "" if search.as_of is None else " AND coalesce(indexed_at, '-infinity') <= %(as_of)s"
    if superseded:
        there += " AND superseded_at > %(as_of)s"
    rows = await connection.execute(
        "SELECT passage_id, document_id, namespace, title, uri, text, digest, document_digest, start_char, end_char,"
        " index_version, 1 - (embedding <=> %(vector)s::vector) FROM " + table + ""
        " WHERE tenant = %(tenant)s AND namespace = ANY(%(namespaces)s) AND embedding_model = %(model)s"
        " AND metadata @> %(filters)s" + there + " ORDER BY embedding <=> %(vector)s::vector LIMIT %(k)s",
        {
            "vector": _literal(search.vector),
            "tenant": search.tenant,
            "namespaces": list(search.namespaces),
            "model": search.embedding_model,
            "filters": Jsonb(dict(search.filters)),
            "as_of": search.as_of,
            "k": search.k,
        },
    )
    return [_hit(row) for row in await rows.fetchall()]


_HISTORY = """
    SELECT since, ARRAY(
        SELECT index_version FROM documents WHERE NOT deleted UNION SELECT index_version FROM superseded_passages)
    FROM index_history
"""


def _hit(row: tuple[Any, ...]) -> Hit:
    passage_id, document_id, namespace, title, uri, text, digest, document_digest, start, end, version, score = row
    return Hit(
        passage_id=passage_id,
        document_id=document_id,
        namespace=namespace,
        title=title,
        uri=uri,
        text=text,
        digest=digest,
        document_digest=document_digest,
        start_char=start,
        end_char=end,
        index_version=version,
        score=round(score, 6),
    )


def _columns(key: DocumentKey) -> tuple[str, str, str]:
    return key.tenant, key.namespace, key.document_id


def _literal(vector: Vector) -> str:
    """The vector as pgvector reads it; nine digits hold every float32 exactly."""
    return "[" + ",".join(f"{value:.9g}" for value in vector.tolist()) + "]"
