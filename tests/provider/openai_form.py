"""OpenAI's chat completions on the wire; Azure's are the same under other paths and with another header."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from aiohttp import web

from tests.provider.form import event
from tests.provider.reply import Said, texts_of

_CODES = {
    "context": "context_length_exceeded",
    "moderated": "content_filter",
    "no_model": "model_not_found",
    "quota": "insufficient_quota",
}


class OpenAIForm:
    """``/v1/chat/completions``."""

    def prompt(self, body: Mapping[str, Any]) -> str:
        return "\n".join(texts_of(message.get("content")) for message in body.get("messages", []))

    def wants_json(self, body: Mapping[str, Any]) -> bool:
        return str((body.get("response_format") or {}).get("type", "text")) != "text"

    def key(self, request: web.Request) -> str:
        return request.headers.get("api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")

    def whole(self, said: Said) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        if said.tool is not None:
            message |= {"content": None, "tool_calls": [_tool(said)]}
        choice = {"index": 0, "message": message, "finish_reason": said.finish, **_logprobs(said, said.text)}
        return {**_head(said, "chat.completion"), "choices": [choice], "usage": _usage(said)}

    def opening(self, said: Said) -> Iterable[bytes]:
        yield _chunk(said, {"role": "assistant", "content": ""})

    def piece(self, said: Said, text: str) -> bytes:
        return _chunk(said, {"content": text}, **_logprobs(said, text))

    def closing(self, said: Said, body: Mapping[str, Any]) -> Iterable[bytes]:
        if said.tool is not None:
            yield _chunk(said, {"tool_calls": [{"index": 0, **_tool(said)}]})
        yield _chunk(said, {}, said.finish)
        usage = _usage(said)
        if usage is not None and (body.get("stream_options") or {}).get("include_usage"):
            yield event({**_head(said, "chat.completion.chunk"), "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"

    def error(self, status: int, kind: str) -> dict[str, Any]:
        type_ = "invalid_request_error" if status < 429 else "server_error"
        return {"error": {"message": "CANARY text of the provider", "type": type_, "code": _CODES.get(kind)}}

    def error_event(self, status: int) -> bytes:
        return event({"error": {"message": "CANARY overloaded", "code": status}})


def _head(said: Said, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{said.number}", "object": kind, "created": 0, "model": said.model}


def _logprobs(said: Said, text: str) -> dict[str, Any]:
    if not said.logprobs or not text:
        return {}
    token = {"token": text, "logprob": -0.25, "bytes": list(text.encode())}
    return {"logprobs": {"content": [{**token, "top_logprobs": [token]}], "refusal": None}}


def _chunk(said: Said, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return event({**_head(said, "chat.completion.chunk"), "choices": [choice]})


def _tool(said: Said) -> dict[str, Any]:
    function = {"name": said.tool, "arguments": orjson.dumps(said.arguments).decode()}
    return {"id": f"call_{said.number}", "type": "function", "function": function}


def _usage(said: Said) -> dict[str, Any] | None:
    if said.spoilt:
        return {"prompt_tokens": -5, "completion_tokens": "many", "total_tokens": None}
    used = said.used
    if used is None:
        return None
    return {
        "prompt_tokens": used.prompt,
        "completion_tokens": used.completion,
        "total_tokens": used.prompt + used.completion,
        "prompt_tokens_details": {"cached_tokens": used.cached},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning},
    }
