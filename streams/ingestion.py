"""Publishing documents, and waiting until the index stage has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from schemas.codec import Codec
from schemas.errors import DependencyDownError, OversizedError
from schemas.record import Record
from schemas.records import Document
from streams.publish import Publisher
from streams.settings import Settings

POLL_S = 0.25
CONNECT_TIMEOUT_S = 5
# How long Postgres may be away while we wait: the index stage waits for it as well.
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """What the index has to say of a document before it counts as there: little, so that thousands can be held."""

    tenant: str
    namespace: str
    document_id: str
    digest: str

    @classmethod
    def of(cls, document: Document) -> Awaited:
        """What to wait for after publishing the document."""
        return cls(
            tenant=document.meta.tenant,
            namespace=document.namespace,
            document_id=document.document_id,
            digest=document.digest,
        )


def publish_documents(
    settings: Settings,
    codec: Codec,
    documents: Iterable[Document],
    *,
    lane: str = "live",
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[list[Awaited], Mapping[str, str]]:
    """Publish the documents and wait for the broker's acknowledgements.

    Returns what was acknowledged, and by document id why something was not. Blocks on the broker and on whatever
    ``documents`` reads; ``advance`` is told of each document that is settled.
    """
    publisher = Publisher(settings, codec, lane=lane)
    sent: list[Awaited] = []
    failed: dict[str, str] = {}

    def settled(record: Record, reason: str | None) -> None:
        assert isinstance(record, Document)
        if reason is None:
            sent.append(Awaited.of(record))
        else:
            failed[record.document_id] = reason
        advance(1)

    for document in documents:
        try:
            publisher.publish("documents", document, document.document_id, delivered=settled)
        except OversizedError as error:
            failed[document.document_id] = str(error)
            advance(1)
    publisher.flush()
    return sent, failed


def wait_until_indexed(
    settings: Settings,
    awaited: Sequence[Awaited],
    *,
    timeout_s: float,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Awaited]:
    """Poll Postgres until the index holds these documents as they were published, or the time is over.

    Returns those that are still missing. Raises ``DependencyDownError`` when Postgres is away at the end.
    """
    deadline = time.monotonic() + timeout_s
    missing = list(awaited)
    while missing:
        left = len(missing)
        try:
            missing = _missing(settings, missing)
        except psycopg.OperationalError as error:
            if time.monotonic() >= deadline:
                raise DependencyDownError("postgres", str(error).strip().splitlines()[0]) from None
        advance(left - len(missing))
        if not missing or time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    return missing


def _missing(settings: Settings, awaited: Sequence[Awaited]) -> list[Awaited]:
    dsn = settings.postgres.dsn.get_secret_value()
    found: set[tuple[str, str, str, str]] = set()
    with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        for batch in _batches(awaited):
            found |= set(
                connection.execute(
                    "SELECT d.tenant, d.namespace, d.document_id, d.digest FROM documents d"
                    " JOIN unnest(%s::text[], %s::text[], %s::text[]) AS w(tenant, namespace, document_id)"
                    " USING (tenant, namespace, document_id) WHERE NOT d.deleted",
                    ([a.tenant for a in batch], [a.namespace for a in batch], [a.document_id for a in batch]),
                ).fetchall()
            )
    return [a for a in awaited if (a.tenant, a.namespace, a.document_id, a.digest) not in found]


def _batches(awaited: Sequence[Awaited]) -> Iterator[Sequence[Awaited]]:
    for start in range(0, len(awaited), _BATCH):
        yield awaited[start : start + _BATCH]
