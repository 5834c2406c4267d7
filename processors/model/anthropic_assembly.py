"""Puts a reply of Anthropic's messages API together, from the events of a stream or from one body.

It comes out in the words of a chat completion: the reasons to stop, the calls of tools, and the usage, where Anthropic
counts cached tokens beside the prompt's and a chat completion among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from processors.model.fields import MalformedError, ReportedError, identifier, is_count, mapping, object_of
from processors.model.port import ModelReply

_STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
# The status that an error would have had, had it come before the stream began.
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_INPUT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class MessageAssembly:
    """A reply that grows by events. ``heard`` gets its text's pieces."""

    def __init__(self, heard: Callable[[str], None] | None = None) -> None:
        self._heard = heard
        self.began = False
        self.ended = False
        self.finish_reason: str | None = None
        self._text: list[str] = []
        self._tools: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, list[str]] = {}
        self._usage: dict[str, Any] = {}
        self._model = ""
        self._response_id: str | None = None

    def add_event(self, data: str | bytes) -> bool:
        """Take a stream's event; whether it brought output. Unknown events are passed over, as the API asks."""
        event = object_of(data)
        kind = event.get("type")
        if kind == "error":
            raise ReportedError(_status(event.get("error")))
        if kind == "message_start":
            self._start(mapping(event.get("message")))
        elif kind == "content_block_start":
            self._block(_index(event), mapping(event.get("content_block")))
        elif kind == "content_block_delta":
            return self._delta(_index(event), mapping(event.get("delta")))
        elif kind == "message_delta":
            self._usage |= _given(mapping(event.get("usage")))
            self._stop(mapping(event.get("delta")).get("stop_reason"))
        elif kind == "message_stop":
            self.end()
            self.ended = True
        return False

    def add_body(self, body: bytes) -> None:
        """Take a whole reply."""
        whole = object_of(body)
        if whole.get("type") == "error":
            raise ReportedError(_status(whole.get("error")))
        if whole.get("type") != "message":
            raise MalformedError("no_message")
        self._start(whole)
        content = whole.get("content")
        if not isinstance(content, list) or not (content or whole.get("stop_reason")):
            raise MalformedError("no_content")
        for n, block in enumerate(content):
            self._block(n, mapping(block))
        self._stop(whole.get("stop_reason"))
        self.end()

    def end(self) -> None:
        self.finish_reason = self.finish_reason or ("tool_calls" if self._tools else "stop")

    def reply(self, *, duration_ms: float, first_token_ms: float | None) -> ModelReply:
        """The reply as it stands. Raises ``MalformedError`` when nothing began."""
        if not self.began:
            raise MalformedError("no_message")
        tools = [self._tool(index) for index in sorted(self._tools)]
        return ModelReply(
            text="".join(self._text) if self._text else None,
            tool_calls_json=orjson.dumps(tools).decode() if tools else None,
            finish_reason=self.finish_reason or "",
            model=self._model,
            response_id=self._response_id,
            usage=chat_usage(self._usage),
            duration_ms=duration_ms,
            first_token_ms=first_token_ms,
        )

    def _start(self, message: Mapping[str, Any]) -> None:
        self.began = True
        self._model = identifier(message.get("model")) or self._model
        self._response_id = identifier(message.get("id")) or self._response_id
        self._usage |= _given(mapping(message.get("usage")))

    def _block(self, index: int, block: Mapping[str, Any]) -> None:
        kind = block.get("type")
        if kind == "text":
            self._hear(block.get("text"))
        elif kind == "tool_use":
            function = {"name": identifier(block.get("name")) or "", "arguments": ""}
            call = {"id": identifier(block.get("id")), "type": "function", "function": function}
            self._tools[index], self._arguments[index] = call, []
            if block.get("input"):
                self._arguments[index].append(orjson.dumps(block["input"]).decode())

    def _delta(self, index: int, delta: Mapping[str, Any]) -> bool:
        kind = delta.get("type")
        if kind == "text_delta":
            return self._hear(delta.get("text"))
        if kind == "input_json_delta":
            if index not in self._arguments:
                raise MalformedError("tool_call_without_start")
            piece = delta.get("partial_json")
            self._arguments[index] += [piece] if isinstance(piece, str) else []
            return True
        # Thoughts are output, though no part of the answer.
        return kind == "thinking_delta"

    def _hear(self, text: Any) -> bool:
        if not isinstance(text, str):
            return False
        self._text.append(text)
        if text and self._heard is not None:
            self._heard(text)
        return bool(text)

    def _stop(self, reason: Any) -> None:
        if isinstance(reason, str):
            self.finish_reason = _STOPS.get(reason, identifier(reason))

    def _tool(self, index: int) -> dict[str, Any]:
        call = self._tools[index]
        arguments = "".join(self._arguments[index]) or "{}"
        return {**call, "function": {**call["function"], "arguments": arguments}}


def chat_usage(usage: Mapping[str, Any]) -> dict[str, Any] | None:
    """Anthropic's usage as a chat completion's; what can't be a count goes on as it is, for whoever books it."""
    if "input_tokens" not in usage or "output_tokens" not in usage:
        return None
    told = [usage.get(name) or 0 for name in _INPUT]
    prompt = sum(told) if all(is_count(count) for count in told) else usage["input_tokens"]
    thinking = mapping(usage.get("output_tokens_details")).get("thinking_tokens")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage["output_tokens"],
        "prompt_tokens_details": {"cached_tokens": told[1], "cache_write_tokens": told[2]},
        "completion_tokens_details": {"reasoning_tokens": thinking or 0},
    }


def _given(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The counts of an event; the last one counts, and null is none."""
    return {name: value for name, value in usage.items() if value is not None}


def _status(error: Any) -> int | None:
    kind = error.get("type") if isinstance(error, dict) else None
    return _STATUSES.get(kind) if isinstance(kind, str) else None


def _index(event: Mapping[str, Any]) -> int:
    index = event.get("index")
    return index if isinstance(index, int) else 0
