"""What of a streamed request's text became public, and whether that is what the answer says."""

from __future__ import annotations

from collections.abc import Sequence

from processors.event import Incoming
from processors.filter.cleaning import clean
from processors.release.chunks import ChunkWriter
from processors.release.window import pieces
from processors.text import inline
from schemas.records import Answer, Chunk, Completion


def public_text(completion: Completion, regions: tuple[str, ...]) -> str:
    """The joined chunks of the attempt that answered, by the functions that the release itself runs."""
    if completion.text is None or completion.finish_reason == "content_filter":
        return ""
    return "".join(clean(piece.text, regions).text for piece in pieces(inline(completion.text)))


def buffered_chunks(incoming: Incoming[Completion], answer: Answer) -> Sequence[Chunk]:
    """The chunks of an answer whose text was not streamed: all of it at once, and the end; else why there is none."""
    completion = incoming.record
    request = completion.request
    writer = ChunkWriter(
        meta=incoming.child("release", "1"),
        user=request.user,
        session=request.session,
    )
    attempt = completion.attempts[-1].ordinal if completion.attempts else 0
    if answer.status != "answered":
        return (writer.failed(attempt, answer.failure.code if answer.failure is not None else answer.status),)
    text = answer.text.inline if answer.text is not None else None
    raw_length = 0 if completion.text is None else len(completion.text.inline or "")
    if not text:
        return (writer.end(attempt, 0, raw_length, completion.finish_reason),)
    return (writer.text(attempt, 0, 0, text), writer.end(attempt, 1, raw_length, completion.finish_reason))
