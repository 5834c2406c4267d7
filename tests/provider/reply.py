"""What the provider says when nothing is wrong: the same answer for the same prompt."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

import orjson

_TAG = re.compile(r"\[\[marker:([^\]]+)\]\]")
_LENGTH = re.compile(r"\[\[words:([0-9]{1,5})\]\]")
_CALL = re.compile(r"\[\[call:([a-zA-Z0-9_-]{1,64})\]\]")
_CACHED = re.compile(r"\[\[cached:([0-9]{1,6})\]\]")
_REASONING = re.compile(r"\[\[reasoning:([0-9]{1,6})\]\]")
_VARIED = "[[vary]]"
_FILLER = (
    "so",
    "it",
    "goes",
    "on",
    "while",
    "the",
    "lamp",
    "is",
    "lit",
    "and",
    "the",
    "kettle",
    "sings",
    "its",
    "song",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """Tokens of a call. ``prompt`` counts the cached ones too, and ``completion`` those of reasoning."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer. ``tool`` is the name of a tool that is called with ``{"topic": ...}``; ``used`` is None for none.

    ``spoilt``: the usage is given in figures that can't be. ``logprobs``: every piece has its log probability.
    """

    number: int
    model: str
    text: str
    finish: str
    used: Used | None
    tool: str | None = None
    spoilt: bool = False
    logprobs: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """What the tool is called with."""
        return {"topic": self.text[:40]}


def said(prompt: str, *, model: str, number: int, as_json: bool, sample: str, tools: bool, text: str | None) -> Said:
    """The answer to a prompt; ``text`` in its place where it is scripted.

    A text repeats the prompt's marker, if it has one; it is a JSON object where one was asked for. ``[[words:N]]`` in
    the prompt makes it N words longer, with ``[[vary]]`` every ``sample`` has its own text, ``[[call:NAME]]`` calls a
    tool where there are some, ``[[cached:N]]`` and ``[[reasoning:N]]`` count so many tokens so.
    """
    told = text if text is not None else _text(prompt, as_json=as_json, sample=sample)
    call = _CALL.search(prompt) if tools else None
    cached, reasoning = _CACHED.search(prompt), _REASONING.search(prompt)
    thought = int(reasoning[1]) if reasoning else 0
    used = Used(
        prompt=tokens_of(prompt) + (int(cached[1]) if cached else 0),
        completion=tokens_of(told) + thought,
        cached=int(cached[1]) if cached else 0,
        reasoning=thought,
    )
    finish = "stop" if call is None else "tool_calls"
    return Said(number=number, model=model, text=told, finish=finish, used=used, tool=call[1] if call else None)


def _text(prompt: str, *, as_json: bool, sample: str) -> str:
    seed = prompt + (sample if _VARIED in prompt else "")
    digest = hashlib.sha256(seed.encode()).hexdigest()[:12]
    marker = _TAG.search(prompt)
    if as_json:
        return orjson.dumps({"answer": digest, "marker": marker[1] if marker else None}).decode()
    longer = _LENGTH.search(prompt)
    start = int(digest[:6], 16)
    filler = [_FILLER[(start + n) % len(_FILLER)] for n in range(int(longer[1]) if longer else 0)]
    text = f"The answer is {digest} [1]." + (f" Marker {marker[1]}." if marker else "")
    return " ".join([text, *filler])


def words(text: str) -> list[str]:
    """The text in pieces as a stream would bring them."""
    return re.findall(r"\S+\s*", text)


def tokens_of(text: str) -> int:
    """A token for each word, and one at least."""
    return max(1, len(text.split()))


def embedding(text: str, dimension: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    raw = hashlib.shake_256(text.encode()).digest(dimension)
    values = [byte / 127.5 - 1 for byte in raw]
    length = sum(value * value for value in values) ** 0.5 or 1.0
    return [value / length for value in values]


def texts_of(content: Any) -> str:
    """All text of a message's content, whether it is a string or parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(
            texts_of(part.get("text") or part.get("content")) for part in content if isinstance(part, dict)
        )
    return ""
