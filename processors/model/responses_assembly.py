"""Puts a reply of OpenAI's Responses API together, from the events of a stream or from one body.

It comes out in the words of a chat completion. The last event of a stream holds the whole response, so that what was
heard piece by piece is only for those who listen; where that event is missing the stream was cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from processors.model.fields import MalformedError, ReportedError, identifier, list_of, mapping, object_of, text_of
from processors.model.port import ModelReply

_FINAL = ("response.completed", "response.incomplete", "response.failed")
# What a model does before it answers: signs of life, and no part of the answer.
_SIGNS = ("response.reasoning", "response.function_call_arguments.delta", "response.refusal.delta")
# ``complete`` is what some gateways say.
_DONE = ("completed", "complete", "incomplete")
_STATUSES = {"rate_limit_exceeded": 429, "server_error": 500, "invalid_prompt": 400}
_REASONS = {"max_output_tokens": "length", "content_filter": "content_filter"}


class ResponsesAssembly:
    """A reply that grows by events. ``heard`` gets its text's pieces."""

    def __init__(self, heard: Callable[[str], None] | None = None) -> None:
        self._heard = heard
        self.began = False
        self.ended = False
        self.finish_reason: str | None = None
        self._said: list[str] = []
        self._response: Mapping[str, Any] = {}

    def add_event(self, data: str | bytes) -> bool:
        """Take a stream's event; whether it brought output. Unknown events are passed over."""
        event = object_of(data)
        kind = text_of(event.get("type")) or ""
        if kind == "error" or ("error" in event and not kind):
            raise ReportedError(_status(event.get("error") or event))
        if kind in _FINAL:
            self._finish(mapping(event.get("response")))
            self.ended = True
            return False
        self.began = self.began or kind.startswith("response.")
        if kind == "response.output_text.delta":
            return self._hear(event.get("delta"))
        return kind.startswith(_SIGNS)

    def add_body(self, body: bytes) -> None:
        """Take a whole reply."""
        whole = object_of(body)
        if whole.get("error") and not whole.get("output"):
            raise ReportedError(_status(whole["error"]))
        self._finish(whole)

    def end(self) -> None:
        """The mark of other APIs. Raises ``MalformedError`` where it is all that came."""
        if not self.began:
            raise MalformedError("no_response")

    def reply(self, *, duration_ms: float, first_token_ms: float | None) -> ModelReply:
        """The reply. Raises ``MalformedError`` before the whole response came."""
        if self.finish_reason is None:
            raise MalformedError("no_response")
        response = self._response
        texts = [text for part in self._parts("output_text") if (text := text_of(part.get("text"))) is not None]
        refusals = [text for part in self._parts("refusal") if (text := text_of(part.get("refusal")))]
        logprobs = [one for part in self._parts("output_text") for one in list_of(part.get("logprobs"))]
        tools = [_call(item) for item in self._items("function_call")]
        return ModelReply(
            text="".join(texts) if texts else None,
            refusal="".join(refusals) or None,
            tool_calls_json=orjson.dumps(tools).decode() if tools else None,
            logprobs_json=orjson.dumps({"content": logprobs}).decode() if logprobs else None,
            finish_reason=self.finish_reason,
            model=identifier(response.get("model")) or "",
            response_id=identifier(response.get("id")),
            usage=chat_usage(mapping(response.get("usage"))),
            duration_ms=duration_ms,
            first_token_ms=first_token_ms,
        )

    def _finish(self, response: Mapping[str, Any]) -> None:
        status = response.get("status")
        if status == "failed":
            raise ReportedError(_status(response.get("error")))
        if status not in _DONE or not isinstance(response.get("output"), list):
            raise MalformedError("unfinished_response")
        self.began, self._response = True, response
        told = "".join(text_of(part.get("text")) or "" for part in self._parts("output_text"))
        self._hear(told[len("".join(self._said)) :])
        reason = mapping(response.get("incomplete_details")).get("reason")
        if status == "incomplete":
            self.finish_reason = _REASONS.get(reason, "length") if isinstance(reason, str) else "length"
        else:
            self.finish_reason = "tool_calls" if any(self._items("function_call")) else "stop"

    def _hear(self, text: Any) -> bool:
        if not isinstance(text, str) or not text:
            return False
        self._said.append(text)
        if self._heard is not None:
            self._heard(text)
        return True

    def _items(self, kind: str) -> Iterator[Mapping[str, Any]]:
        return (item for item in list_of(self._response.get("output")) if mapping(item).get("type") == kind)

    def _parts(self, kind: str) -> Iterator[Mapping[str, Any]]:
        for item in self._items("message"):
            yield from (part for part in list_of(item.get("content")) if mapping(part).get("type") == kind)


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": identifier(item.get("name")) or "", "arguments": text_of(item.get("arguments")) or "{}"}
    return {"id": identifier(item.get("call_id")), "type": "function", "function": function}


def chat_usage(usage: Mapping[str, Any]) -> dict[str, Any] | None:
    """The Responses API's usage as a chat completion's."""
    if "input_tokens" not in usage or "output_tokens" not in usage:
        return None
    read, written = mapping(usage.get("input_tokens_details")), mapping(usage.get("output_tokens_details"))
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "prompt_tokens_details": {name: read[name] for name in ("cached_tokens", "cache_write_tokens") if name in read},
        "completion_tokens_details": {"reasoning_tokens": written.get("reasoning_tokens") or 0},
    }


def _status(error: Any) -> int | None:
    code = mapping(error).get("code")
    return _STATUSES.get(code) if isinstance(code, str) else None
