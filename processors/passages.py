"""Passages with their vectors: what the index stage writes and the enrich stage searches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np

from processors.clock import Clock, FakeClock
from processors.embeddings import Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a document's record stood in the log."""

    lane: str
    partition: int
    offset: int
    appended_at: datetime

    def before(self, other: Position) -> bool:
        """Whether this record is older: by offset within a partition, else by the broker's append time."""
        if (self.lane, self.partition) == (other.lane, other.partition):
            return self.offset < other.offset
        return self.appended_at < other.appended_at


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentKey:
    """What identifies a document."""

    tenant: str
    namespace: str
    document_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentState:
    """What is stored of a document, its passages apart. ``digest`` is the body's, ``content_digest`` of all that
    the passages carry; a removed document stays as a tombstone."""

    key: DocumentKey
    position: Position
    digest: str = ""
    content_digest: str = ""
    index_version: str = ""
    title: str = ""
    uri: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    deleted: bool = False

    def says(self, other: DocumentState) -> bool:
        """Whether both hold the same content under the same index version."""
        return (self.deleted, self.content_digest, self.index_version) == (
            other.deleted,
            other.content_digest,
            other.index_version,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPassage:
    """A passage to store. ``embedded_digest`` is the digest of what was embedded for it."""

    passage_id: str
    ordinal: int
    start_char: int
    end_char: int
    text: str
    digest: str
    embedded_digest: str
    vector: Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look for: the ``k`` passages nearest to ``vector`` among a tenant's namespaces.

    ``as_of``: in the index as it was at that moment, which ``History`` may no longer hold; ``None``: as it is.
    """

    tenant: str
    namespaces: tuple[str, ...]
    vector: Vector
    embedding_model: str
    k: int
    minimum_score: float | None = None
    filters: Mapping[str, str] = field(default_factory=dict)
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What is kept of the index as it was: all of it ``since`` a moment. ``versions``: those that have passages, those
    that were replaced included.
    """

    since: datetime
    versions: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A passage found; ``score`` is its cosine similarity, rounded so that both ways of searching agree on it."""

    passage_id: str
    document_id: str
    namespace: str
    title: str
    uri: str
    text: str
    digest: str
    document_digest: str
    start_char: int
    end_char: int
    index_version: str
    score: float


class PassageSearch(Protocol):
    """Finds passages. Blocks on the store; raises ``DependencyDownError`` when it is away."""

    async def search(self, search: Search) -> list[Hit]:
        """The nearest passages, best first; equal scores by passage id."""
        ...


class PassageStore(PassageSearch, Protocol):
    """All methods block on the store and raise ``DependencyDownError`` when it is away."""

    async def document(self, key: DocumentKey) -> DocumentState | None:
        """What is stored of the document; a tombstone when it was removed."""
        ...

    async def vectors(self, key: DocumentKey, embedding_model: str) -> Mapping[str, Vector]:
        """The document's vectors by ``embedded_digest``: those in use and those kept by ``keep``."""
        ...

    async def keep(self, key: DocumentKey, embedding_model: str, vectors: Mapping[str, Vector]) -> None:
        """Keep vectors that were just computed until ``replace`` uses them, so that a retry need not."""
        ...

    async def replace(self, state: DocumentState, embedding_model: str, passages: Sequence[NewPassage]) -> bool:
        """Put these passages in place of the document's, all or none. False, and nothing done, when a record later
        than ``state.position`` was stored meanwhile."""
        ...

    async def confirm(self, state: DocumentState) -> bool:
        """Note that a record at ``state.position`` says what is stored already. False, and nothing done, when
        something else is stored by now or a later record was."""
        ...

    async def history(self) -> History:
        """What of the index as it was can be searched."""
        ...


def ranked(hits: Iterable[Hit], search: Search) -> list[Hit]:
    """The hits that score enough, in the order that both stores promise."""
    wanted = (hit for hit in hits if search.minimum_score is None or hit.score >= search.minimum_score)
    return sorted(wanted, key=lambda hit: (-hit.score, hit.passage_id))[: search.k]


class FakePassages:
    """Passages in memory, searched exhaustively."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.documents: dict[DocumentKey, DocumentState] = {}
        self.passages: dict[DocumentKey, tuple[NewPassage, ...]] = {}
        self.models: dict[DocumentKey, str] = {}
        self._clock = clock or FakeClock()
        self._indexed: dict[DocumentKey, datetime] = {}
        self._past: list[_Superseded] = []
        self._since = self._clock.now()
        self.pending: dict[tuple[DocumentKey, str], dict[str, Vector]] = {}
        # Raised by the next call of ``replace``, once.
        self.failure: Exception | None = None

    async def document(self, key: DocumentKey) -> DocumentState | None:
        return self.documents.get(key)

    async def vectors(self, key: DocumentKey, embedding_model: str) -> Mapping[str, Vector]:
        stored = self.passages.get(key, ()) if self.models.get(key) == embedding_model else ()
        return {p.embedded_digest: p.vector for p in stored} | self.pending.get((key, embedding_model), {})

    async def keep(self, key: DocumentKey, embedding_model: str, vectors: Mapping[str, Vector]) -> None:
        self.pending.setdefault((key, embedding_model), {}).update(vectors)

    async def replace(self, state: DocumentState, embedding_model: str, passages: Sequence[NewPassage]) -> bool:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        stored = self.documents.get(state.key)
        if stored is not None and state.position.before(stored.position):
            return False
        now = self._clock.now()
        if stored is not None:
            was = (stored, self.models[state.key], self.passages[state.key], self._indexed[state.key])
            self._past.append(_Superseded(*was, superseded_at=now))
        self.documents[state.key], self.models[state.key] = state, embedding_model
        self.passages[state.key], self._indexed[state.key] = tuple(passages), now
        self.pending.pop((state.key, embedding_model), None)
        return True

    async def confirm(self, state: DocumentState) -> bool:
        stored = self.documents.get(state.key)
        if stored is None or state.position.before(stored.position) or not stored.says(state):
            return False
        self.documents[state.key] = state
        return True

    async def search(self, search: Search) -> list[Hit]:
        as_of = search.as_of
        there = [
            (self.documents[key], self.models[key], passages)
            for key, passages in self.passages.items()
            if as_of is None or self._indexed[key] <= as_of
        ]
        if as_of is not None:
            there += [
                (one.state, one.model, one.passages)
                for one in self._past
                if one.indexed_at <= as_of < one.superseded_at
            ]
        return ranked(
            (
                _found(state, passage, search.vector)
                for state, model, passages in there
                if state.key.tenant == search.tenant
                and state.key.namespace in search.namespaces
                and model == search.embedding_model
                and search.filters.items() <= state.metadata.items()
                for passage in passages
            ),
            search,
        )

    async def history(self) -> History:
        now = [state.index_version for key, state in self.documents.items() if self.passages[key]]
        past = [one.state.index_version for one in self._past if one.passages]
        return History(self._since, frozenset({*now, *past}))

    def forget(self, before: datetime) -> None:
        """Drop what was superseded before then, as a purge does."""
        gone = [one for one in self._past if one.superseded_at < before]
        self._past = [one for one in self._past if one not in gone]
        self._since = max([self._since, *(one.superseded_at for one in gone)])


@dataclass(frozen=True, slots=True)
class _Superseded:
    """A document's passages as they were for a while."""

    state: DocumentState
    model: str
    passages: tuple[NewPassage, ...]
    indexed_at: datetime
    superseded_at: datetime


def _found(state: DocumentState, passage: NewPassage, vector: Vector) -> Hit:
    cosine = float(passage.vector @ vector / (np.linalg.norm(passage.vector) * np.linalg.norm(vector)))
    return Hit(
        passage_id=passage.passage_id,
        document_id=state.key.document_id,
        namespace=state.key.namespace,
        title=state.title,
        uri=state.uri,
        text=passage.text,
        digest=passage.digest,
        document_digest=state.digest,
        start_char=passage.start_char,
        end_char=passage.end_char,
        index_version=state.index_version,
        score=round(cosine, 6),
    )
