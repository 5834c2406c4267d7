"""Gathers what an audit is explained from: control, stored prompts and documents."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from processors.postgres import Database
from processors.prompts import PgPrompts, StoredPrompt, parse_reference
from schemas.codec import Codec
from schemas.errors import ConfigurationError, DependencyDownError
from streams.audit import Audit
from streams.auditing.explain import Background, DocumentKey, DocumentNow, current_of, documents_used, prompts_used
from streams.auditing.live import Change, changes
from streams.imported import as_recorded
from streams.opened import Opener, iso
from streams.reading import TopicReader
from streams.settings import Settings
from streams.topics import topic_name

Note = Callable[[str], None]


def gather_background(settings: Settings, codec: Codec, found: Audit, *, lane: str, note: Note) -> Background:
    """Read control from its first record, and the templates and documents that the events name.

    Blocks on the broker, and on Postgres for a handful of short queries; without Postgres, templates and documents
    are left out and ``note`` is told.
    """
    with TopicReader(settings) as reader:
        history = read_control(reader, Opener(codec, prefix=settings.prefix, lane=lane), settings.prefix, lane)
    wanted = prompts_used(found.events)
    names = {reference.partition("@")[0] for reference in wanted}
    references = [*wanted, *(f"{name}@{current_of(name, history)}" for name in sorted(names))]
    try:
        work = _stored(settings, references, documents_used(found.events), lane=lane, request_id=found.request_id)
        prompts, documents, erasures = asyncio.run(work)
    except DependencyDownError as error:
        note(f"{error}; templates and documents are left out")
        prompts, documents, erasures = {}, {}, []
    return Background(prompts=prompts, documents=documents, history=history, erasures=erasures)


def read_control(reader: TopicReader, opener: Opener, prefix: str, lane: str) -> list[Change]:
    """Everything that was ever said on a lane's control topic; none where there is no such topic."""
    topic = topic_name(prefix, lane, "control")
    if topic not in reader.existing([topic]):
        return []
    stretches = reader.ends([(topic, 0)])
    return changes(opener.open(entry) for entry in as_recorded(reader.read(stretches)))


async def _stored(
    settings: Settings, references: Sequence[str], keys: Sequence[DocumentKey], *, lane: str, request_id: str
) -> tuple[dict[str, StoredPrompt], dict[DocumentKey, DocumentNow], list[dict[str, Any]]]:
    dsn = settings.postgres.dsn.get_secret_value()
    database = await Database.open(dsn, max_size=1, application_name="headrace-audit")
    try:
        store = PgPrompts(database)
        prompts = {}
        for reference in dict.fromkeys(references):
            try:
                name, version = parse_reference(reference)
            except ConfigurationError:
                # An event from outside may name anything.
                continue
            found = await store.show(name, version)
            if found is not None:
                prompts[reference] = found
        prefix = topic_name(settings.prefix, lane, "")
        try:
            rows = await database.execute(_ERASURES, {"prefix": prefix, "request_id": request_id})
        except psycopg.errors.UndefinedTable:
            # The database is that of an older release: nothing was sealed, so nothing was buried.
            rows = []
        erasures = [dict(zip(_ERASED, (*row[:-1], iso(row[-1])), strict=True)) for row in rows]
        return prompts, await _documents(database, keys) if keys else {}, erasures
    finally:
        await database.close()


async def _documents(database: Database, keys: Sequence[DocumentKey]) -> dict[DocumentKey, DocumentNow]:
    tenants, namespaces, ids = zip(*keys, strict=True)
    rows = await database.execute(
        _DOCUMENTS, {"tenants": list(tenants), "namespaces": list(namespaces), "ids": list(ids)}
    )
    return {
        (tenant, namespace, document_id): DocumentNow(digest, version, deleted, iso(indexed_at))
        for tenant, namespace, document_id, digest, version, deleted, indexed_at in rows
    }


_ERASED = ("topic", "partition", "offset", "reason", "author", "erased_at")
_ERASURES = """
    SELECT topic, partition, "offset", reason, author, erased_at FROM tombstones
    WHERE request_id = %(request_id)s AND starts_with(topic, %(prefix)s) ORDER BY number
"""
_DOCUMENTS = """
    SELECT tenant, namespace, document_id, digest, index_version, deleted, indexed_at FROM documents
    JOIN unnest(%(tenants)s::text[], %(namespaces)s::text[], %(ids)s::text[]) AS wanted (t, n, d)
        ON (tenant, namespace, document_id) = (t, n, d)
"""
