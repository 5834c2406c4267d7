"""Getting the corpus in: published like any other document, and waited for until the index has all of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from schemas.records import Document
from streams.demo.failure import dead_letters, failure
from streams.publish import Publisher
from streams.reading import TopicReader
from streams.settings import Settings
from streams.topics import topic_name

POLL_S = 0.2
# Without another document indexed. The largest takes some seconds.
STALLED_S = 90.0


@dataclass(frozen=True, slots=True)
class Ingested:
    """How far the index is. ``embedded``: passages of documents that were new or had changed."""

    documents: int
    chars: int
    passages: int
    embedded: int


OnIngested = Callable[[Ingested], None]


def ingest(
    settings: Settings, publisher: Publisher, documents: Sequence[Document], *, lane: str, on_progress: OnIngested
) -> Ingested:
    """Publish the documents and wait until the index stage has taken each of them, changed or not.

    Blocks for half a minute the first time on two cores, and about a second when nothing has changed. Raises
    DemoError when the index does not go on.
    """
    starts = _ends(settings, lane)
    with psycopg.connect(settings.postgres.dsn.get_secret_value(), autocommit=True) as connection:
        before = _database_time(connection)
        for document in documents:
            publisher.send(document)
        if refused := publisher.flush():
            raise failure(
                settings.folder, f"the broker did not take a document: {refused[0].reason}", suspects=("kafka",)
            )
        sizes = {document.document_id: chars_of(document) for document in documents}
        return _wait(settings, _Progress(connection, documents[0], lane, starts, sizes, before), on_progress)


@dataclass(frozen=True, slots=True)
class _Progress:
    """Reads from the table of documents which of the published ones the index has taken."""

    connection: psycopg.Connection
    owner: Document
    lane: str
    # Partition to the offset of its first record of this run.
    starts: Mapping[int, int]
    sizes: Mapping[str, int]
    before: object

    def read(self) -> Ingested:
        rows = self.connection.execute(
            'SELECT document_id, partition, "offset", passage_count, indexed_at >= %s FROM documents'
            " WHERE tenant = %s AND namespace = %s AND lane = %s",
            (self.before, self.owner.meta.tenant, self.owner.namespace, self.lane),
        ).fetchall()
        # An unchanged document is not indexed again, but its row takes the position of the record that said so.
        taken = [row for row in rows if row[0] in self.sizes and row[2] >= self.starts.get(row[1], 0)]
        return Ingested(
            documents=len(taken),
            chars=sum(self.sizes[row[0]] for row in taken),
            passages=sum(row[3] for row in taken),
            embedded=sum(row[3] for row in taken if row[4]),
        )


def _wait(settings: Settings, progress: _Progress, on_progress: OnIngested) -> Ingested:
    seen, moved = progress.read(), time.monotonic()
    while seen.documents < len(progress.sizes):
        if time.monotonic() - moved > STALLED_S:
            reason = f"the index has {seen.documents} of {len(progress.sizes)} documents and does not go on"
            letters = dead_letters(settings, lane=progress.lane)
            raise failure(settings.folder, reason, suspects=("flow", "embeddings"), letters=letters)
        time.sleep(POLL_S)
        now = progress.read()
        if now != seen:
            seen, moved = now, time.monotonic()
            on_progress(seen)
    on_progress(seen)
    return seen


def _ends(settings: Settings, lane: str) -> dict[int, int]:
    with TopicReader(settings) as reader:
        places = reader.places([topic_name(settings.prefix, lane, "documents")])
        return {partition: stretch.end for (_, partition), stretch in reader.ends(places).items()}


def _database_time(connection: psycopg.Connection) -> object:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    return row[0]


def chars_of(document: Document) -> int:
    """The length of its text."""
    return len((document.body.inline if document.body else None) or "")
