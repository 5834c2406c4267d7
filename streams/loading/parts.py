"""A text as documents: one, or several parts where one event would be too large."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.records import Document
from streams.loading.record import Owner, Reading, build_document

# In UTF-8. What an event may weigh, less room for its title, labels and headers.
PART_BYTES = 700_000
# The label that says which text a part belongs to.
PART_OF = "part_of"
_SEAMS = (b"\n\n", b"\n", b" ")


def documents_of(reading: Reading, name: str, owner: Owner) -> tuple[Document, ...]:
    """The text's documents. The first goes by the text's name, the n-th by ``name#n``; labels say which is which."""
    texts = list(cut(reading.text))
    labels = dict(reading.metadata or {})
    return tuple(
        build_document(
            owner,
            name if number == 1 else f"{name}#{number}",
            text,
            title=reading.title,
            uri=reading.uri,
            media_type=reading.media_type,
            language=reading.language,
            metadata=labels
            if len(texts) == 1
            else {**labels, PART_OF: name, "part": str(number), "parts": str(len(texts))},
            modified_at=reading.modified_at,
        )
        for number, text in enumerate(texts, start=1)
    )


def cut(text: str, limit: int = PART_BYTES) -> Iterator[str]:
    """Consecutive stretches of at most ``limit`` bytes, which end at a paragraph, a line or a word where they can."""
    data, start = text.encode(), 0
    while len(data) - start > limit:
        end = _end(data, start, start + limit)
        yield data[start:end].decode()
        start = end
    yield data[start:].decode()


def _end(data: bytes, start: int, end: int) -> int:
    for seam in _SEAMS:
        at = data.rfind(seam, start + (end - start) // 2, end)
        if at >= 0:
            return at + len(seam)
    while data[end] & 0xC0 == 0x80:  # not inside a character
        end -= 1
    return end
