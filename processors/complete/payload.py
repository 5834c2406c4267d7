"""What is sent: the body of a chat completions request, from an enrichment and a deployment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from processors.complete.routes import Deployment
from processors.content import only_text, sent_parts
from processors.text import inline, message_text
from schemas.errors import RefusedError
from schemas.records import Enrichment, Message, ResponseFormat, Sampling, Text

Payload = Mapping[str, Any]
_DEFAULT_SCHEMA_NAME = "answer"


def build_payload(enrichment: Enrichment, deployment: Deployment) -> dict[str, Any]:
    """The request's body; the same input gives the same body.

    Raises ``RefusedError`` naming the field for a text that can't be read or JSON that is none.
    """
    request, sampling = enrichment.request, enrichment.request.sampling
    messages = enrichment.grounding.messages
    body: dict[str, Any] = {
        "model": deployment.model,
        "messages": [_message(message, f"grounding.messages[{n}]") for n, message in enumerate(messages)],
        deployment.max_tokens_parameter: token_limit(sampling, deployment),
        **_sampling(sampling),
    }
    response_format = _response_format(request.response_format)
    if response_format is not None:
        body["response_format"] = response_format
    if request.tools_json is not None:
        body["tools"] = _json(request.tools_json, "request.tools_json")
    if request.tool_choice_json is not None:
        body["tool_choice"] = _json(Text(inline=request.tool_choice_json), "request.tool_choice_json")
    return body


def token_limit(sampling: Sampling, deployment: Deployment) -> int:
    """The most tokens that the call may generate."""
    return sampling.max_tokens if sampling.max_tokens is not None else deployment.default_max_tokens


def payload_hash(payload: Payload, deployment: Deployment) -> str:
    """sha256 of what is sent and where, as hex."""
    where_and_what = {"base_url": deployment.base_url, "body": payload}
    return hashlib.sha256(orjson.dumps(where_and_what, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _message(message: Message, field: str) -> dict[str, Any]:
    calls = message.tool_calls_json
    # An assistant's turn that only called tools has no content.
    body: dict[str, Any] = {"role": message.role, "content": _content(message, field)}
    if message.name is not None:
        body["name"] = message.name
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if calls is not None:
        body["tool_calls"] = _json(calls, f"{field}.tool_calls_json")
    return body


def _content(message: Message, field: str) -> str | list[dict[str, Any]] | None:
    if message.tool_calls_json is not None and not message.content:
        return None
    # Not every endpoint takes parts: texts go as one.
    return message_text(message, field) if only_text(message) else sent_parts(message, field)


def _sampling(sampling: Sampling) -> dict[str, Any]:
    names = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "reasoning_effort")
    body = {name: getattr(sampling, name) for name in names if getattr(sampling, name) is not None}
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
    return body


def _response_format(wanted: ResponseFormat) -> dict[str, Any] | None:
    if wanted.type == "text":
        return None
    if wanted.type != "json_schema" or wanted.schema_json is None:
        return {"type": wanted.type}
    return {
        "type": "json_schema",
        "json_schema": {
            "name": wanted.schema_name or _DEFAULT_SCHEMA_NAME,
            "schema": _json(wanted.schema_json, "request.response_format.schema_json"),
            "strict": wanted.strict,
        },
    }


def _json(text: Text, field: str) -> Any:
    try:
        return orjson.loads(inline(text, field))
    except orjson.JSONDecodeError:
        raise RefusedError("invalid_request", f"{field}: no valid JSON", field=field) from None
