"""A count of tokens that needs no model's tokenizer and seldom says too few."""

from __future__ import annotations

import math
import re

_WORDS = re.compile(r"[A-Za-z\s]+")
_SIGNS = re.compile(r"[!-/:-@\[-`{-~]")
_DIGITS = re.compile(r"[0-9]")
# English prose has about 4.2 characters a token in small vocabularies, identifiers fewer.
_CHARS_A_TOKEN = 3.5
# Every second sign joins its neighbour; small models take each digit alone.
_TOKENS_A_SIGN = 0.75
# Other scripts fall apart into bytes, of which small vocabularies join few.
_TOKENS_A_BYTE = 0.5


def estimate_tokens(text: str) -> int:
    """About how many tokens the text is, on the safe side."""
    if not text:
        return 0
    words = sum(len(match) for match in _WORDS.findall(text))
    signs, digits = len(_SIGNS.findall(text)), len(_DIGITS.findall(text))
    others = len(text.encode()) - words - signs - digits
    return math.ceil(words / _CHARS_A_TOKEN + signs * _TOKENS_A_SIGN + digits + others * _TOKENS_A_BYTE)
