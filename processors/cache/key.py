"""What makes two requests the same: one digest of everything that an answer depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from processors.cache.policy import Scope
from processors.complete.policies import CascadePolicy
from processors.event import Incoming
from processors.filter.cleaning import find_identifiers
from processors.filter.policy import FilterPolicy
from schemas.record import to_plain
from schemas.records import Enrichment, Request, Text

_REGIONS = FilterPolicy().phone_regions
_INSTRUCTIONS = ("system", "developer")
# What of a cascade decides whether a reply is good enough; who is asked then is among the models.
_CHECKS = ("refusal", "phrases", "format", "least_words", "least_groundedness")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheKey:
    """``exact``: sha256 of everything. ``scope``: of everything but the question, and ``question`` itself; ``None``
    for a request that only an identical one may answer: a conversation, or one with tools.
    """

    exact: bytes
    scope: bytes | None = None
    question: str = ""


def cache_key(
    incoming: Incoming[Enrichment], models: Sequence[str], scope: Scope, *, cascade: CascadePolicy | None = None
) -> CacheKey | None:
    """The key of a request; ``None`` for one that no other may share: personal, and of no user.

    ``models`` are those that its route may ask, ``cascade`` is how it checks their replies: an answer that passed
    other checks is another one. Pure; about 50 µs, more for long texts with digits.
    """
    user = incoming.record.request.user if scope == "user" or personal(incoming.record.request) else None
    if user == "":
        return None
    messages = [to_plain(message) for message in incoming.record.grounding.messages]
    parts = {**_parts(incoming, models), "user": user}
    if cascade is not None:
        parts["checks"] = {name: getattr(cascade, name) for name in _CHECKS}
    exact = _digest({**parts, "messages": messages})
    question = _question(incoming.record)
    if question is None:
        return CacheKey(exact=exact)
    return CacheKey(exact=exact, scope=_digest({**parts, "messages": messages[:-1]}), question=question)


def personal(request: Request) -> bool:
    """Whether identifiers of a person are in what was asked: e-mail, phone, card or social security numbers.

    Pictures, sound and files may show anything.
    """
    return any(part.type != "text" for message in request.messages for part in message.content) or any(
        find_identifiers(text, _REGIONS) for text in _texts(request)
    )


def _texts(request: Request) -> Iterator[str]:
    texts = [request.query, *(part.text for message in request.messages for part in message.content)]
    texts += (message.tool_calls_json for message in request.messages)
    texts += request.prompt.variables.values() if request.prompt is not None else ()
    yield from (text.inline for text in texts if text is not None and text.inline is not None)


def _parts(incoming: Incoming[Enrichment], models: Sequence[str]) -> dict[str, Any]:
    meta, record = incoming.meta, incoming.record
    request, grounding = record.request, record.grounding
    return {
        "tenant": meta.tenant,
        "lane": meta.lane,
        "route": record.admission.route,
        "models": list(models),
        "model": request.model,
        "prompt": [grounding.prompt_name, grounding.prompt_version, grounding.prompt_digest],
        "policy": record.admission.policy_version,
        "arm": record.admission.arm,
        "index": [grounding.index_version, grounding.embedding_model],
        "namespaces": [list(grounding.namespaces), list(request.retrieval.namespaces)],
        "filters": dict(request.retrieval.filters),
        "format": to_plain(request.response_format),
        "tools": [_plain(request.tools_json), request.tool_choice_json],
        "sampling": to_plain(request.sampling),
    }


def _plain(text: Text | None) -> Any:
    return None if text is None else to_plain(text)


def _question(enrichment: Enrichment) -> str | None:
    """What is asked, where it is one question of plain text after instructions, without tools."""
    request, messages = enrichment.request, enrichment.grounding.messages
    if request.tools_json is not None or request.tool_choice_json is not None or not messages:
        return None
    *before, last = messages
    if last.role != "user" or any(message.role not in _INSTRUCTIONS for message in before):
        return None
    texts = [part.text.inline if part.type == "text" and part.text is not None else None for part in last.content]
    said = [text for text in texts if text is not None]
    return "\n".join(said) if said and len(said) == len(texts) else None


def _digest(value: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(value, default=_other, option=orjson.OPT_SORT_KEYS)).digest()


def _other(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)
