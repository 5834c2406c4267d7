"""From a line of JSON, as people and the OpenAI client write it, to a request."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from schemas.ids import derive_id, request_event_id
from schemas.records import Message, Meta, PromptRef, Request, ResponseFormat, Retrieval, Sampling, Text
from streams.request_content import content_part
from streams.request_form import (
    BadRequestLineError,
    FormatForm,
    MessageForm,
    PromptForm,
    RequestForm,
    RetrievalForm,
    RetrievalObjectForm,
    SamplingForm,
    parse_form,
)

__all__ = ["BadRequestLineError", "parse_request"]


def parse_request(
    line: bytes | str, *, tenant: str, lane: str, batch: str | None = None, place: str = "", ttl_ms: int | None = None
) -> Request:
    """The request on a line of JSON.

    Its id is its ``request_id``; else it follows from ``idempotency_key``; else from ``batch``, the line and its
    ``place`` in the file; else it is a fresh one. The first three give the same id when the line is sent again, and
    then the answer that was paid for is published again. ``ttl_ms`` is that of a line which says none.

    Raises ``BadRequestLineError`` with all that is wrong.
    """
    raw = line.encode() if isinstance(line, str) else line
    read = parse_form(raw)
    owner = read.tenant or tenant
    request_id = read.request_id or _derived_id(read, raw, owner, lane, batch, place)
    return _request(read, request_id, owner, lane, ttl_ms)


def _derived_id(read: RequestForm, raw: bytes, tenant: str, lane: str, batch: str | None, place: str) -> str:
    if read.idempotency_key is not None:
        return derive_id("submit", tenant, lane, "idempotency_key", read.idempotency_key)
    if batch is not None:
        return derive_id("submit", tenant, lane, "batch", batch, place, raw.strip().decode("utf-8", "replace"))
    return str(uuid4())


def _request(read: RequestForm, request_id: str, tenant: str, lane: str, ttl_ms: int | None) -> Request:
    wanted_ms = ttl_ms if read.ttl_ms is None else read.ttl_ms
    known = {} if wanted_ms is None else {"ttl_ms": wanted_ms}
    return Request(
        meta=Meta(
            event_id=request_event_id(tenant=tenant, lane=lane, request_id=request_id),
            request_id=request_id,
            tenant=tenant,
            lane=lane,
            stage="producer",
        ),
        idempotency_key=read.idempotency_key,
        team=read.team,
        user=read.user,
        session=read.session,
        feature=read.feature,
        tier=read.tier,
        priority=read.priority,
        query=None if read.query is None else Text(inline=read.query),
        messages=tuple(_message(message) for message in read.messages),
        prompt=_prompt(read.prompt),
        route=read.route,
        model=read.model,
        sampling=_sampling(read.sampling or read),
        response_format=_format(read.response_format),
        tools_json=None if read.tools is None else Text(inline=_json(read.tools)),
        tool_choice_json=None if read.tool_choice is None else _json(read.tool_choice),
        retrieval=_retrieval(read.retrieval or read),
        stream=read.stream,
        cache=read.cache,
        metadata=dict(read.metadata),
        **known,
    )


def _message(read: MessageForm) -> Message:
    return Message(
        role=read.role,
        content=tuple(content_part(part) for part in read.content or ()),
        name=read.name,
        tool_call_id=read.tool_call_id,
        tool_calls_json=None if read.tool_calls is None else Text(inline=_json(read.tool_calls)),
    )


def _prompt(read: PromptForm | None) -> PromptRef | None:
    if read is None:
        return None
    variables = {name: Text(inline=value) for name, value in read.variables.items()}
    return PromptRef(name=read.name, version=None if read.version is None else str(read.version), variables=variables)


def _sampling(read: SamplingForm) -> Sampling:
    return Sampling(
        temperature=read.temperature,
        top_p=read.top_p,
        max_tokens=read.max_tokens,
        stop=tuple(read.stop or ()),
        seed=read.seed,
        presence_penalty=read.presence_penalty,
        frequency_penalty=read.frequency_penalty,
        # OpenAI's switch: the token that was chosen, without alternatives.
        top_logprobs=0 if read.logprobs and read.top_logprobs is None else read.top_logprobs,
        reasoning_effort=read.reasoning_effort,
        samples=1 if read.samples is None else read.samples,
    )


def _format(read: FormatForm | None) -> ResponseFormat:
    if read is None:
        return ResponseFormat()
    schema = read.json_schema
    if schema is None:
        return ResponseFormat(type=read.type)
    return ResponseFormat(
        type=read.type,
        schema_name=schema.name,
        schema_json=Text(inline=_json(schema.schema_)),
        strict=bool(schema.strict),
    )


def _retrieval(read: RetrievalForm) -> Retrieval:
    single = () if read.namespace is None else (read.namespace,)
    return Retrieval(
        enabled=read.enabled if isinstance(read, RetrievalObjectForm) else True,
        k=read.k,
        minimum_score=read.minimum_score,
        filters=dict(read.filters or {}),
        namespaces=single or tuple(read.namespaces or ()),
    )


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        raise BadRequestLineError(["tools or a schema: NaN and Infinity are no JSON; use a number"]) from None
