"""Length and format of an answer: what can be judged by looking at the text alone."""

from __future__ import annotations

import json
import re
from collections import Counter

from processors.evaluate.material import Material
from processors.evaluate.scores import scored, unscored
from schemas.records import Score

LENGTH = ("length", "word-count", "1")
FORMAT = ("format", "format-checks", "1")

_WORD = re.compile(r"\w+")
_MARK = re.compile(r"\[([0-9]{1,6})\]")
# A sentence that is said this often is a model that runs in circles.
_CIRCLES = 3


def length(material: Material, *, least: int, most: int) -> Score:
    """1 from ``least`` to ``most`` words; below by the share that is there, above by ``most`` over the words."""
    if material.text is None:
        return _no_text(LENGTH)
    words = len(_WORD.findall(material.text))
    value = words / least if words < least else most / words if words > most else 1.0
    return scored(*LENGTH, value, f"{words} words; wanted {least} to {most}")


def form(material: Material) -> Score:
    """The share of checks that the text passes; the explanation names those it does not.

    ended: generation did not stop at its limit. For JSON: it parses. For text: no sentence comes three times, code
    fences are closed, and every mark names a passage that was shown.
    """
    if material.text is None:
        return _no_text(FORMAT)
    text = material.text
    checks = {"ended": material.finish_reason != "length"}
    if material.response_format == "text":
        said = Counter(sentence.text.casefold() for sentence in material.sentences)
        checks["no circles"] = max(said.values(), default=0) < _CIRCLES
        checks["closed fences"] = text.count("```") % 2 == 0
        if material.shown:
            checks["marks"] = {int(mark) for mark in _MARK.findall(text)} <= material.shown
    else:
        checks["json"] = _parses(text)
    failed = [name for name, holds in checks.items() if not holds]
    why = f"failed: {', '.join(failed)}" if failed else f"passed: {', '.join(checks)}"
    return scored(*FORMAT, 1 - len(failed) / len(checks), why)


def _no_text(score: tuple[str, str, str]) -> Score:
    return unscored(*score, "no_text", "the answer has no text that can be read here")


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
