"""Log probabilities: they spell the model's text token by token, so they go out only with the text that they spell."""

from __future__ import annotations

from typing import Any

import orjson

from processors.filter.cleaning import clean
from processors.filter.tokens import TOKENS
from schemas.records import Text, Verdict

_SHORTEST = 6


def shown(given: Text | None, text: str, regions: tuple[str, ...]) -> Text | None:
    """The log probabilities of the answer's ``text``; ``None`` where their tokens are not this very text.

    Then the filter or a repair changed it, and the tokens would tell what it took out. An alternative that holds what
    the filter would change is left out. What a model declined to write has none.
    """
    if given is None or given.inline is None:
        return None
    try:
        tokens = orjson.loads(given.inline).get("content") or []
        if _spelled(tokens) != text.encode():
            return None
        told = [_token(token, regions) for token in tokens]
    except (ValueError, KeyError, TypeError, AttributeError):
        # The provider's own form is not what it should be.
        return None
    return Text(inline=orjson.dumps({"content": told}).decode())


def verdict(given: Text | None, out: Text | None, *, version: str, stage: str) -> list[Verdict]:
    """That they were held back, where they were asked for and are not in the answer."""
    if given is None or out is not None:
        return []
    detail = "held back: the text is not as the model wrote it"
    return [Verdict(guard="logprobs", version=version, stage=stage, outcome="changed", detail=detail)]


def _spelled(tokens: list[dict[str, Any]]) -> bytes:
    """A token may be a piece of a character: its bytes count, where it has some."""
    return b"".join(bytes(t["bytes"]) if t.get("bytes") is not None else t["token"].encode() for t in tokens)


def _token(token: dict[str, Any], regions: tuple[str, ...]) -> dict[str, Any]:
    others = [_plain(other) for other in token.get("top_logprobs") or ()]
    kept = [other for other in others if _harmless(other["token"], regions)]
    return {**_plain(token), "top_logprobs": kept}


def _harmless(token: str, regions: tuple[str, ...]) -> bool:
    # There are thousands of alternatives: no identifier is as short as most of them are.
    return TOKENS.search(token) is None and (len(token) < _SHORTEST or not clean(token, regions).findings)


def _plain(token: dict[str, Any]) -> dict[str, Any]:
    """Of what a provider may write there only what the API has."""
    return {"token": str(token["token"]), "logprob": float(token["logprob"]), "bytes": token.get("bytes")}
