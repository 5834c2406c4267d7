"""One request's stream: from its deltas, in order, late, again or with gaps, to its chunks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from processors.filter.cleaning import clean
from processors.release.chunks import ChunkWriter
from processors.release.window import Piece, Window
from processors.text import inline
from schemas.records import Chunk, Delta


class Stream:
    """Takes texts by overlap: characters that it has are skipped, and what comes behind a gap waits for the whole text.

    The delta that closes an attempt holds its whole text, so a gap never lasts. Texts of two attempts are never
    joined: once something of an attempt is public, the next one is announced by a ``restart``.
    """

    def __init__(self, first: Delta, *, regions: tuple[str, ...]) -> None:
        self._writer = ChunkWriter(meta=first.meta, user=first.user, session=first.session)
        self._regions = regions
        self.attempt = first.attempt
        self.ended = False
        # Something of this attempt, or of an earlier one that no restart has taken back yet, is public.
        self.public = False
        self._open()

    @property
    def held(self) -> int:
        """Characters that are not public yet."""
        return self._window.held

    def feed(self, delta: Delta) -> Sequence[Chunk]:
        """The chunks that this delta makes ready. A delta of an attempt that is over gives none."""
        if self.ended or delta.attempt < self.attempt:
            return ()
        if delta.aborted:
            return self.fail(delta.finish_reason or "stream_broken", delta.attempt) if delta.final else ()
        chunks: list[Chunk] = []
        if delta.attempt > self.attempt:
            chunks += self._restart(delta.attempt)
        text = "" if delta.text is None else inline(delta.text)
        if delta.final:
            return [*chunks, *self._close(text, delta.finish_reason)]
        length = self._window.length
        fresh = text[length - delta.start_char :] if delta.start_char <= length else ""
        return [*chunks, *self._grow(fresh)]

    def fail(self, code: str, attempt: int | None = None) -> Sequence[Chunk]:
        """End the stream without its text. What is held never goes out."""
        self.ended = True
        return (self._writer.failed(self.attempt if attempt is None else attempt, code),)

    def _open(self) -> None:
        self._window = Window()
        self._digest = hashlib.sha256()
        self._number = 0

    def _restart(self, attempt: int) -> Sequence[Chunk]:
        self.attempt = attempt
        self._open()
        if not self.public:
            return ()
        self.public = False
        return (self._writer.restart(attempt),)

    def _grow(self, fresh: str) -> Sequence[Chunk]:
        self._digest.update(fresh.encode("utf-8", "surrogatepass"))
        return self._chunks(self._window.feed(fresh))

    def _close(self, text: str, finish_reason: str | None) -> Sequence[Chunk]:
        known = hashlib.sha256(text[: self._window.length].encode("utf-8", "surrogatepass")).digest()
        if known != self._digest.digest():
            return self.fail("stream_differs")
        if finish_reason == "content_filter":
            return self.fail("content_filter")
        chunks = [*self._grow(text[self._window.length :]), *self._chunks(self._window.finish())]
        self.ended = True
        return [*chunks, self._writer.end(self.attempt, self._number, len(text), finish_reason)]

    def _chunks(self, pieces: Sequence[Piece]) -> Sequence[Chunk]:
        chunks = []
        for piece in pieces:
            cleaned = clean(piece.text, self._regions).text
            if cleaned:
                chunks.append(self._writer.text(self.attempt, self._number, piece.start, cleaned))
                self._number += 1
        self.public = self.public or bool(chunks)
        return chunks
