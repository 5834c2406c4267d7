"""Chunks: their ids and what they say. A chunk's bytes follow from the stream's text alone, never from its deltas."""

from __future__ import annotations

from dataclasses import dataclass, replace

from schemas.ids import derive_id
from schemas.records import Chunk, Failure, Meta, Text

STAGE = "release"
VERSION = "1"

_MESSAGES = {
    "stream_stalled": "No more of the text came in time; the answer has it.",
    "stream_overloaded": "Too many streams were open at once; the answer has the text.",
    "stream_differs": "The text that was stored is not the one that was streamed; the answer has the stored one.",
    "stream_oversized": "A piece of the text is larger than an event may be; the answer says what became of it.",
    "content_filter": "The provider's content filter held the text back.",
    "cancelled": "The request was cancelled.",
    "expired": "The request's time to live ended.",
}
_POLICY = frozenset({"content_filter", "cancelled", "expired"})
_OURS = frozenset({"stream_stalled", "stream_overloaded"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkWriter:
    """Writes the chunks of one stream. ``meta`` is that of any of its deltas, but for what differs between them."""

    meta: Meta
    user: str = ""
    session: str = ""

    def text(self, attempt: int, number: int, start: int, text: str) -> Chunk:
        """A cleared stretch: the ``number``-th of the attempt, from the raw text's character ``start`` on."""
        chunk = self._chunk("text", attempt, start)
        return replace(chunk, sequence=number, text=Text(inline=text))

    def restart(self, attempt: int) -> Chunk:
        """What was shown before is void; this attempt's text follows from its first character."""
        return self._chunk("restart", attempt, 0)

    def end(self, attempt: int, number: int, length: int, finish_reason: str | None) -> Chunk:
        """The text is complete after ``number`` chunks and ``length`` raw characters."""
        chunk = self._chunk("end", attempt, length)
        return replace(chunk, sequence=number, finish_reason=finish_reason)

    def failed(self, attempt: int, code: str) -> Chunk:
        """No more text will come; the answer says what became of the request."""
        error_class = "transient-infrastructure" if code in _OURS else "transient-provider"
        failure = Failure(
            code=code,
            error_class="policy" if code in _POLICY else error_class,
            message=_MESSAGES.get(code, "The text broke off and no attempt follows; the answer says why."),
        )
        return replace(self._chunk("failed", attempt, 0, code), failure=failure)

    def _chunk(self, kind: str, attempt: int, start: int, *more: str) -> Chunk:
        meta = self.meta
        named = () if kind == "text" else (kind, *more)
        return Chunk(
            meta=replace(
                meta,
                event_id=derive_id(meta.tenant, meta.lane, meta.run, meta.request_id, attempt, start, *named),
                stage=STAGE,
                stage_version=VERSION,
                control_offset=-1,
            ),
            kind=kind,
            attempt=attempt,
            start_char=start,
            user=self.user,
            session=self.session,
        )
