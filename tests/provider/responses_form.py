"""OpenAI's Responses API on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from aiohttp import web

from tests.provider.form import event
from tests.provider.openai_form import OpenAIForm
from tests.provider.reply import Said, texts_of


class ResponsesForm:
    """``/v1/responses``."""

    def __init__(self) -> None:
        self._openai = OpenAIForm()

    def prompt(self, body: Mapping[str, Any]) -> str:
        given = body.get("input", "")
        if isinstance(given, str):
            return given
        return "\n".join(texts_of(item.get("content")) or str(item.get("output", "")) for item in given)

    def wants_json(self, body: Mapping[str, Any]) -> bool:
        return str(((body.get("text") or {}).get("format") or {}).get("type", "text")) != "text"

    def key(self, request: web.Request) -> str:
        return self._openai.key(request)

    def whole(self, said: Said) -> dict[str, Any]:
        return {
            **_head(said),
            "status": "incomplete" if said.finish in ("length", "content_filter") else "completed",
            "incomplete_details": _REASONS.get(said.finish),
            "output": _output(said),
            "usage": _usage(said),
        }

    def opening(self, said: Said) -> Iterable[bytes]:
        yield _event("response.created", response={**_head(said), "status": "in_progress", "output": []})
        yield _event("response.in_progress", response={**_head(said), "status": "in_progress", "output": []})

    def piece(self, said: Said, text: str) -> bytes:
        return _event("response.output_text.delta", output_index=0, content_index=0, delta=text)

    def closing(self, said: Said, body: Mapping[str, Any]) -> Iterable[bytes]:
        whole = self.whole(said)
        yield _event(f"response.{whole['status']}", response=whole)

    def error(self, status: int, kind: str) -> dict[str, Any]:
        return self._openai.error(status, kind)

    def error_event(self, status: int) -> bytes:
        code = "invalid_prompt" if status < 429 else "server_error"
        return _event("error", code=code, message="CANARY overloaded", param=None)


_REASONS = {"length": {"reason": "max_output_tokens"}, "content_filter": {"reason": "content_filter"}}


def _head(said: Said) -> dict[str, Any]:
    return {"id": f"resp_{said.number}", "object": "response", "created_at": 0, "model": said.model, "error": None}


def _event(kind: str, **data: Any) -> bytes:
    return event({"type": kind, **data}, name=kind)


def _output(said: Said) -> list[dict[str, Any]]:
    part = {"type": "output_text", "text": said.text, "annotations": []}
    output: list[dict[str, Any]] = [{"type": "message", "role": "assistant", "content": [part]}]
    if said.tool is not None:
        arguments = orjson.dumps(said.arguments).decode()
        about = {"name": said.tool, "arguments": arguments, "call_id": f"call_{said.number}"}
        output.append({"type": "function_call", "id": f"fc_{said.number}", **about})
    return output


def _usage(said: Said) -> dict[str, Any] | None:
    if said.spoilt:
        return {"input_tokens": -5, "output_tokens": "many"}
    used = said.used
    if used is None:
        return None
    return {
        "input_tokens": used.prompt,
        "output_tokens": used.completion,
        "input_tokens_details": {"cached_tokens": used.cached},
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
    }
