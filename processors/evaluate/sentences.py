"""A text in sentences, with their places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# The end of a sentence with what closes it, or of a line.
_END = re.compile(r"[.!?…]+[\"')\]”’]*(?=\s|$)|[。！？]+|\n+")
_WORD = re.compile(r"\w")
_SPACE = re.compile(r"\s+")
_MARK = re.compile(r"\[\d+(?:\s*,\s*\d+)*\]")
# Behind a full stop: the sentence goes on after an abbreviation.
_GOES_ON = re.compile(r"[ \t]+[a-z]")
# "1." ends no sentence: what is shorter goes with what follows.
_SHORTEST = 12
# An embedding model reads some 250 tokens of a text.
LONGEST = 600


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a text. ``text`` is without marks of citations and doubled spaces; the place is in characters."""

    text: str
    start: int
    end: int


def sentences(text: str) -> list[Sentence]:
    """The sentences that hold a word, in order. None is over 600 characters: a longer one is cut at a space."""
    found = []
    for start, end in _stretches(text):
        for first, last in _cut(text, start, end):
            said = _SPACE.sub(" ", _MARK.sub("", text[first:last])).strip()
            if _WORD.search(said):
                found.append(Sentence(said, first, last))
    return found


def _stretches(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for mark in _END.finditer(text):
        short = len(text[start : mark.end()].strip()) < _SHORTEST
        goes_on = mark.group() == "." and _GOES_ON.match(text, mark.end())
        if (short or goes_on) and "\n" not in mark.group():
            continue
        yield start, mark.end()
        start = mark.end()
    if start < len(text):
        yield start, len(text)


def _cut(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while end - start > LONGEST:
        space = text.rfind(" ", start + LONGEST // 2, start + LONGEST)
        middle = space if space > 0 else start + LONGEST
        yield start, middle
        start = middle
    if start < end:
        yield start, end
