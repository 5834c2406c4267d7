"""Cutting a text into passages at its own seams: paragraphs, sentences, words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from processors.index.policy import IndexPolicy

# The splitter's time grows faster than its input when there are few seams (5 s for a megabyte without any), and it
# holds the interpreter lock meanwhile; so it gets the text in sections.
_SECTION_CHARS = 20_000
_SEAMS = ("\n\n", "\n", " ")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a text: ``text == whole[start_char:end_char]``."""

    start_char: int
    end_char: int
    text: str


async def chunks(text: str, media_type: str, policy: IndexPolicy) -> list[Chunk]:
    """The text's passages in order. Works in a thread, some milliseconds a section, so that the loop goes on."""
    cut: list[Chunk] = []
    for start, section in _sections(text):
        found = await asyncio.to_thread(_split, section, media_type, policy)
        cut += [Chunk(start + offset, start + offset + len(piece), piece) for offset, piece in found]
    return cut


def _sections(text: str) -> Iterator[tuple[int, str]]:
    """Consecutive sections that end at the last good seam before their limit."""
    start = 0
    while start < len(text):
        end = min(len(text), start + _SECTION_CHARS)
        if end < len(text):
            end = _seam(text, start, end)
        yield start, text[start:end]
        start = end


def _seam(text: str, start: int, end: int) -> int:
    for seam in _SEAMS:
        at = text.rfind(seam, start + _SECTION_CHARS // 2, end)
        if at >= 0:
            return at + len(seam)
    return end


def _split(section: str, media_type: str, policy: IndexPolicy) -> list[tuple[int, str]]:
    kind = MarkdownSplitter if media_type == "text/markdown" else TextSplitter
    splitter = kind(policy.chunk_chars, overlap=policy.overlap_chars)
    return [(offset, piece) for offset, piece in splitter.chunk_indices(section) if piece.strip()]
