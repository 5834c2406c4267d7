"""Special tokens: marks of chat templates that a model should not write into its text.

Stripped are: anything of the form ``<|name|>`` (ChatML, Llama 3, Phi, Qwen, gpt-oss, ``<|endoftext|>``) and its
full-width form (DeepSeek); ``<s>`` and ``</s>``; ``[INST]``, ``[/INST]``, ``<<SYS>>``, ``<</SYS>>`` (Llama 2,
Mistral); ``<start_of_turn>``, ``<end_of_turn>`` (Gemma); ``<bos>``, ``<eos>``, ``<pad>``, ``<unk>``, ``<mask>``. They
are stripped wherever they stand, in quotes and code too: fed back in a conversation they would end the model's turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

TOKENS = re.compile(
    r"<\|[\w./-]{1,64}\|>|<｜[\w▁./-]{1,64}｜>|</?s>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>"
    r"|<(?:bos|eos|pad|unk|mask)>"
)


@dataclass(frozen=True, slots=True)
class Stripped:
    """A text without special tokens. ``places[i]`` is where its i-th character stood before; ``None`` for unchanged.

    ``removed`` are the stretches of the text before that were taken out.
    """

    text: str
    places: Sequence[int] | None = None
    removed: tuple[tuple[int, int], ...] = ()

    def before(self, start: int, end: int) -> tuple[int, int]:
        """The stretch of the text before that became ``start:end``."""
        if self.places is None:
            return start, end
        return self.places[start], self.places[end - 1] + 1


def strip_tokens(text: str) -> Stripped:
    """Take out all special tokens.

    What remains can read as a token again (``<|im_<|im_end|>end|>``). Such a one gives way to a space, so that nothing
    can close up behind it.
    """
    # What every one of them has.
    if "<" not in text and "INST]" not in text:
        return Stripped(text)
    matches = list(TOKENS.finditer(text))
    if not matches:
        return Stripped(text)
    places: list[int] = []
    last = 0
    for match in matches:
        places += range(last, match.start())
        last = match.end()
    places += range(last, len(text))
    joined = "".join(text[i] for i in places)
    removed = [match.span() for match in matches]
    again = list(TOKENS.finditer(joined))
    if again:
        removed += [(places[m.start()], places[m.end() - 1] + 1) for m in again]
        for match in reversed(again):
            joined = f"{joined[: match.start()]} {joined[match.end() :]}"
            places[match.start() : match.end()] = [places[match.start()]]
    return Stripped(joined, places, tuple(sorted(removed)))
