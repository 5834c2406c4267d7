"""Anthropic's messages API on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from aiohttp import web

from tests.provider.form import event
from tests.provider.reply import Said, texts_of

_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_MESSAGES = {"context": "prompt is too long: 250000 tokens > 200000 maximum"}


class AnthropicForm:
    """``/v1/messages``."""

    def prompt(self, body: Mapping[str, Any]) -> str:
        texts = [texts_of(message.get("content")) for message in body.get("messages", [])]
        return "\n".join([texts_of(body.get("system")), *texts])

    def wants_json(self, body: Mapping[str, Any]) -> bool:
        return "format" in (body.get("output_config") or {})

    def key(self, request: web.Request) -> str:
        return request.headers.get("x-api-key", "")

    def whole(self, said: Said) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": said.text}] if said.text else []
        if said.tool is not None:
            content.append({**_tool(said), "input": said.arguments})
        return {**_head(said), "content": content, "stop_reason": _STOPS[said.finish], "usage": _usage(said)}

    def opening(self, said: Said) -> Iterable[bytes]:
        usage = _usage(said)
        if usage is not None:
            usage |= {"output_tokens": 1} if not said.spoilt else {}
        message = {**_head(said), "content": [], "stop_reason": None, "usage": usage}
        yield _event("message_start", message=message)
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        yield _event("ping")

    def piece(self, said: Said, text: str) -> bytes:
        return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def closing(self, said: Said, body: Mapping[str, Any]) -> Iterable[bytes]:
        yield _event("content_block_stop", index=0)
        if said.tool is not None:
            yield _event("content_block_start", index=1, content_block={**_tool(said), "input": {}})
            arguments = orjson.dumps(said.arguments).decode()
            for half in (arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]):
                yield _event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": half})
            yield _event("content_block_stop", index=1)
        usage = _usage(said)
        counted = None if usage is None else {"output_tokens": usage["output_tokens"]}
        yield _event("message_delta", delta={"stop_reason": _STOPS[said.finish], "stop_sequence": None}, usage=counted)
        yield _event("message_stop")

    def error(self, status: int, kind: str) -> dict[str, Any]:
        message = _MESSAGES.get(kind, "CANARY text of the provider")
        return {"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": message}}

    def error_event(self, status: int) -> bytes:
        return event(self.error(status, ""), name="error")


def _head(said: Said) -> dict[str, Any]:
    return {"id": f"msg_{said.number}", "type": "message", "role": "assistant", "model": said.model}


def _event(kind: str, **data: Any) -> bytes:
    return event({"type": kind, **data}, name=kind)


def _tool(said: Said) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{said.number}", "name": said.tool}


def _usage(said: Said) -> dict[str, Any] | None:
    if said.spoilt:
        return {"input_tokens": -5, "output_tokens": "many"}
    used = said.used
    if used is None:
        return None
    return {
        "input_tokens": used.prompt - used.cached,
        "output_tokens": used.completion,
        "cache_read_input_tokens": used.cached,
        "cache_creation_input_tokens": 0,
    }
