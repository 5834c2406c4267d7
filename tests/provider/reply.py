"""What the provider says when nothing is wrong: the same answer for the same prompt."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import orjson

_TAG = re.compile(r"\[\[marker:([^\]]+)\]\]")
_LENGTH = re.compile(r"\[\[words:([0-9]{1,5})\]\]")
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


def prompt_of(body: dict[str, Any]) -> str:
    """All text of the messages."""
    return "\n".join(str(message.get("content") or "") for message in body.get("messages", []))


def answer_to(body: dict[str, Any], sample: str = "") -> str:
    """A text that repeats the prompt's marker, if it has one; a JSON object where one was asked for.

    ``[[words:N]]`` in the prompt makes it N words longer, and with ``[[vary]]`` every ``sample`` has its own text.
    """
    prompt = prompt_of(body)
    seed = prompt + (sample if _VARIED in prompt else "")
    digest = hashlib.sha256(seed.encode()).hexdigest()[:12]
    marker = _TAG.search(prompt)
    if (body.get("response_format") or {}).get("type", "text") != "text":
        return orjson.dumps({"answer": digest, "marker": marker[1] if marker else None}).decode()
    longer = _LENGTH.search(prompt)
    start = int(digest[:6], 16)
    filler = [_FILLER[(start + n) % len(_FILLER)] for n in range(int(longer[1]) if longer else 0)]
    text = f"The answer is {digest} [1]." + (f" Marker {marker[1]}." if marker else "")
    return " ".join([text, *filler])


def words(text: str) -> list[str]:
    """The text in pieces as a stream would bring them."""
    return re.findall(r"\S+\s*", text)


def usage_of(body: dict[str, Any], text: str) -> dict[str, Any]:
    """A token for each word."""
    prompt, completion = max(1, len(prompt_of(body).split())), max(1, len(words(text)))
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def whole(body: dict[str, Any], text: str, *, finish: str, usage: Any, number: int) -> dict[str, Any]:
    """A ``chat.completion``."""
    message = {"role": "assistant", "content": text}
    return {
        **_head(body, number, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }


def chunk(body: dict[str, Any], *, number: int, text: str | None = None, finish: str | None = None) -> dict[str, Any]:
    """A ``chat.completion.chunk``."""
    delta = {} if text is None else {"content": text}
    return {
        **_head(body, number, "chat.completion.chunk"),
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def usage_chunk(body: dict[str, Any], usage: Any, number: int) -> dict[str, Any]:
    """The chunk that ``stream_options.include_usage`` asks for."""
    return {**_head(body, number, "chat.completion.chunk"), "choices": [], "usage": usage}


def embedding(text: str, dimension: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    raw = hashlib.shake_256(text.encode()).digest(dimension)
    values = [byte / 127.5 - 1 for byte in raw]
    length = sum(value * value for value in values) ** 0.5 or 1.0
    return [value / length for value in values]


def _head(body: dict[str, Any], number: int, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{number}", "object": kind, "created": 0, "model": body.get("model", "fake")}
