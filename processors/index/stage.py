"""The index stage: a document in, its passages and vectors in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from processors.embeddings import Embedder, Vector
from processors.event import Incoming, Output
from processors.index.chunks import Chunk, chunks
from processors.index.policy import IndexPolicy
from processors.passages import DocumentKey, DocumentState, NewPassage, PassageStore, Position
from processors.spending.payer import Payer
from processors.text import inline
from schemas.errors import PoisonError, RefusedError
from schemas.ids import derive_id
from schemas.records import Document

STAGE = "index"
VERSION = "1"

# Nothing in a text holds this character (it is refused), so that digests of several parts are unambiguous.
_NUL = "\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOutcome:
    """What became of one document. ``outcome``: indexed, empty (nothing to cut), unchanged, stale (a later record
    was stored before) or deleted. Of the ``passages``, ``embedded`` were sent to the model in this attempt."""

    outcome: str
    passages: int = 0
    embedded: int = 0

    @property
    def reused(self) -> int:
        """Passages whose vector was there already."""
        return self.passages - self.embedded


class Index:
    """Processor of the index stage; it has no output topic, what it did goes to ``observe``.

    Blocks on the embedding endpoint and the store. Raises ``DependencyDownError`` when one of them is away, and
    ``PoisonError`` for a document that can't be stored.
    """

    def __init__(
        self,
        passages: PassageStore,
        embedder: Embedder,
        *,
        policy: IndexPolicy | None = None,
        observe: Callable[[IndexOutcome], None] = lambda _: None,
    ) -> None:
        self._passages, self._embedder = passages, embedder
        self._policy = policy or IndexPolicy()
        self._observe = observe

    @property
    def index_version(self) -> str:
        """Names chunker, settings and embedding model."""
        return self._policy.index_version(self._embedder.model, self._embedder.dimension)

    async def __call__(self, incoming: Incoming[Document]) -> Sequence[Output]:
        self._observe(await self._index(incoming))
        return []

    async def _index(self, incoming: Incoming[Document]) -> IndexOutcome:
        document = incoming.record
        body = _body(document, self._policy)
        state = self._state(incoming, body)
        stored = await self._passages.document(state.key)
        if stored is not None and state.position.before(stored.position):
            return IndexOutcome(outcome="stale")
        if stored is not None and stored.says(state) and await self._passages.confirm(state):
            return IndexOutcome(outcome="unchanged")
        if body is None:
            removed = await self._passages.replace(state, self._embedder.model, ())
            return IndexOutcome(outcome="deleted" if removed else "stale")
        cut = await chunks(body, document.media_type, self._policy)
        # No request is behind it; and what a document has bought is kept with its passages.
        payer = Payer(meta=replace(incoming.meta, accepted_at=None), stage=STAGE, version=VERSION, keeps=False)
        fresh, embedded = await self._embedded(payer, state, cut)
        if not await self._passages.replace(state, self._embedder.model, fresh):
            return IndexOutcome(outcome="stale")
        return IndexOutcome(outcome="indexed" if fresh else "empty", passages=len(fresh), embedded=embedded)

    def _state(self, incoming: Incoming[Document], body: str | None) -> DocumentState:
        document, meta = incoming.record, incoming.meta
        partition, offset = incoming.position
        key = DocumentKey(tenant=meta.tenant, namespace=document.namespace, document_id=document.document_id)
        state = DocumentState(
            key=key,
            position=Position(lane=meta.lane, partition=partition, offset=offset, appended_at=incoming.appended_at),
            deleted=body is None,
        )
        if body is None:
            return state
        labels = (f"{name}{_NUL}{value}" for name, value in sorted(document.metadata.items()))
        return replace(
            state,
            digest=_sha256(body),
            content_digest=_sha256(body, document.title, document.uri, document.media_type, *labels),
            index_version=self.index_version,
            title=document.title,
            uri=document.uri,
            metadata=document.metadata,
        )

    async def _embedded(self, payer: Payer, state: DocumentState, cut: Sequence[Chunk]) -> tuple[list[NewPassage], int]:
        """The passages with their vectors, and how many of these had to be computed."""
        texts = [self._embeddable(state.title, chunk.text) for chunk in cut]
        digests = [_sha256(text) for text in texts]
        known = dict(await self._passages.vectors(state.key, self._embedder.model))
        missing = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in known}
        await self._compute(payer, state.key, missing, known)
        passages = [
            NewPassage(
                passage_id=derive_id("passage", *_parts(state.key), state.digest, state.index_version, ordinal),
                ordinal=ordinal,
                start_char=chunk.start_char,
                end_char=chunk.end_char,
                text=chunk.text,
                digest=_sha256(chunk.text),
                embedded_digest=digests[ordinal],
                vector=known[digests[ordinal]],
            )
            for ordinal, chunk in enumerate(cut)
        ]
        return passages, len(missing)

    async def _compute(self, payer: Payer, key: DocumentKey, missing: dict[str, str], known: dict[str, Vector]) -> None:
        """Embed what is missing; what a long document has paid for is kept as it goes."""
        digests = list(missing)
        step = self._policy.keep_every
        for start in range(0, len(digests), step):
            part = digests[start : start + step]
            found = await self._embedder.embed([missing[digest] for digest in part], [payer] * len(part))
            vectors = dict(zip(part, found, strict=True))
            known |= vectors
            await self._passages.keep(key, self._embedder.model, vectors)

    def _embeddable(self, title: str, text: str) -> str:
        return f"{title}\n{text}" if self._policy.embed_title and title else text


def _body(document: Document, policy: IndexPolicy) -> str | None:
    """The document's text, ``None`` for a removal; ``PoisonError`` for what Postgres or one attempt can't hold."""
    if not document.document_id:
        raise PoisonError("document_id is empty; give every document an id")
    labels = (part for item in document.metadata.items() for part in item)
    for name, value in (
        *((name, getattr(document, name)) for name in ("document_id", "namespace", "title", "uri")),
        *(("metadata", part) for part in labels),
    ):
        _refuse_nul(name, value)
    if document.deleted or document.body is None:
        return None
    try:
        body = inline(document.body, "body")
    except RefusedError as error:
        raise PoisonError(str(error)) from None
    _refuse_nul("body", body)
    if len(body) > policy.max_chars:
        raise PoisonError(
            f"body has {len(body)} characters, at most {policy.max_chars} are indexed; split the document"
        )
    return body


def _refuse_nul(name: str, value: str) -> None:
    if _NUL in value:
        raise PoisonError(f"{name} holds a NUL character, which Postgres can't store; remove it")


def _parts(key: DocumentKey) -> tuple[str, str, str]:
    return key.tenant, key.namespace, key.document_id


def _sha256(*parts: str) -> str:
    return hashlib.sha256(_NUL.join(parts).encode()).hexdigest()
