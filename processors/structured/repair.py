"""Repairs of JSON that a model wrote almost right: fences, text around it, quotes, commas, missing brackets."""

from __future__ import annotations

import json
import re
from typing import Any

from json_repair import repair_json

from processors.filter.json_text import parse
from processors.filter.tokens import strip_tokens

# The library reads some texts several times over: for this many characters it takes half a second at the worst, in
# which the worker does nothing else.
MAX_CHARS = 64 * 1024
# Models that reason aloud in front of their answer; what they think of is often JSON too.
_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)


class UnrepairableError(ValueError):
    """Nothing that could be meant by the text was found."""


def repaired(text: str) -> tuple[str, Any]:
    """What was most likely meant by a text that is no JSON, as JSON and as its value: an object or an array.

    A value that is empty was not found in the text but made up, and is none. Raises ``UnrepairableError``.
    """
    if len(text) > MAX_CHARS:
        raise UnrepairableError("too long")
    meant = _THOUGHT.sub("", strip_tokens(text).text, count=1)
    try:
        value = repair_json(meant, return_objects=True)
        if not isinstance(value, dict | list) or not value:
            raise UnrepairableError("nothing found")
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return written, parse(written)
    except UnrepairableError:
        raise
    except Exception:
        # A library that guesses at broken text: whatever it stumbles over was not mended.
        raise UnrepairableError("not understood") from None
