"""Citations: the marks in a text, like [1] or [2, 3], and the passages that they name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from processors.filter.json_text import string_spans
from schemas.records import Citation, Passage

_MARK = re.compile(r"\[(\d{1,3}(?:\s{0,2}[,;]\s{0,2}\d{1,3}){0,15})\]|【(\d{1,3})】")
_NUMBER = re.compile(r"\d+")
# Brackets in code are subscripts and lists.
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Cited:
    """The citations of a text in order, and how many marks name no passage."""

    citations: tuple[Citation, ...]
    unknown: int = 0


def cite(text: str, passages: Sequence[Passage], *, json: bool = False) -> Cited:
    """One citation for each passage that each mark names; places are characters of ``text``.

    In JSON only the strings are read: elsewhere brackets are arrays.
    """
    by_number = {passage.number: passage for passage in passages}
    citations, unknown = [], 0
    for match in _marks(text, json):
        for number in _NUMBER.findall(match[1] or match[2]):
            passage = by_number.get(int(number))
            if passage is None:
                unknown += 1
            else:
                citations.append(citation(passage, match.start(), match.end()))
    return Cited(tuple(citations), unknown)


def citation(passage: Passage, start_char: int | None = None, end_char: int | None = None) -> Citation:
    """The citation of a passage; without a place where the text has no mark for it."""
    return Citation(
        number=passage.number,
        passage_id=passage.passage_id,
        document_id=passage.document_id,
        namespace=passage.namespace,
        title=passage.title,
        uri=passage.uri,
        digest=passage.digest,
        score=passage.score,
        start_char=start_char,
        end_char=end_char,
    )


def _marks(text: str, json: bool) -> Iterable[re.Match[str]]:
    if json:
        for start, end in string_spans(text):
            yield from _MARK.finditer(text, start, end)
        return
    code = [match.span() for match in _CODE.finditer(text)]
    for match in _MARK.finditer(text):
        while code and code[0][1] <= match.start():
            code.pop(0)
        if not code or match.start() < code[0][0]:
            yield match
