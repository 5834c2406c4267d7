"""Puts a reply together, from the chunks of a stream or from one body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from processors.model.fields import MalformedError, ReportedError, identifier, list_of, mapping, object_of, text_of
from processors.model.port import ModelReply


class ChatAssembly:
    """A reply that grows by chunks. Of several choices only the first is kept. ``heard`` gets its text's pieces."""

    def __init__(self, heard: Callable[[str], None] | None = None) -> None:
        self._heard = heard
        self.began = False
        # A stream of this API ends by a mark that is no event.
        self.ended = False
        self.finish_reason: str | None = None
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._tools: dict[int, dict[str, Any]] = {}
        self._logprobs: dict[str, list[Any]] = {}
        self._usage: Mapping[str, Any] | None = None
        self._model = ""
        self._response_id: str | None = None
        self._fingerprint: str | None = None

    def add_event(self, data: str | bytes) -> bool:
        """Take a stream's event; whether it brought output. Raises ``MalformedError`` and ``ReportedError``."""
        chunk = object_of(data)
        _check(chunk)
        return self._add(chunk, "delta")

    def add_body(self, body: bytes) -> None:
        """Take a whole reply, from an endpoint that does not stream."""
        whole = object_of(body)
        _check(whole)
        self._add(whole, "message")
        if not self.began:
            raise MalformedError("no_choices")
        self.end()

    def end(self) -> None:
        """The provider said that this is all. Some never say why."""
        self.finish_reason = self.finish_reason or ("tool_calls" if self._tools else "stop")

    def reply(self, *, duration_ms: float, first_token_ms: float | None) -> ModelReply:
        """The reply as it stands. Raises ``MalformedError`` when there is no choice in it."""
        if not self.began:
            raise MalformedError("no_choices")
        tools = [self._tools[index] for index in sorted(self._tools)]
        return ModelReply(
            text="".join(self._text) if self._text else None,
            refusal="".join(self._refusal) or None,
            tool_calls_json=orjson.dumps(tools).decode() if tools else None,
            logprobs_json=orjson.dumps(self._logprobs).decode() if self._logprobs else None,
            finish_reason=self.finish_reason or "",
            model=self._model,
            response_id=self._response_id,
            fingerprint=self._fingerprint,
            usage=self._usage,
            duration_ms=duration_ms,
            first_token_ms=first_token_ms,
        )

    def _add(self, chunk: Mapping[str, Any], part: str) -> bool:
        self._model = identifier(chunk.get("model")) or self._model
        self._response_id = identifier(chunk.get("id")) or self._response_id
        self._fingerprint = identifier(chunk.get("system_fingerprint")) or self._fingerprint
        self._usage = mapping(chunk.get("usage")) or self._usage
        choices = chunk.get("choices") or []
        if not isinstance(choices, list):
            raise MalformedError("choices_no_list")
        brought = False
        for choice in choices:
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                brought = self._add_choice(choice, mapping(choice.get(part))) or brought
        return brought

    def _add_choice(self, choice: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
        self.began = True
        self.finish_reason = identifier(choice.get("finish_reason")) or self.finish_reason
        content, refusal = _content(message.get("content")), text_of(message.get("refusal"))
        if content is not None:
            self._text.append(content)
            if content and self._heard is not None:
                self._heard(content)
        if refusal:
            self._refusal.append(refusal)
        for position, tool in enumerate(list_of(message.get("tool_calls"))):
            self._add_tool(tool, position)
        for kind, tokens in mapping(choice.get("logprobs")).items():
            if isinstance(tokens, list):
                self._logprobs.setdefault(kind, []).extend(tokens)
        # Models that reason aloud send their thoughts apart: they are output, though no part of the answer.
        thought = message.get("reasoning_content") or message.get("reasoning")
        return bool(content or refusal or message.get("tool_calls") or thought)

    def _add_tool(self, piece: Any, position: int) -> None:
        if not isinstance(piece, dict):
            raise MalformedError("tool_call_no_object")
        index = piece.get("index")
        tool = self._tools.setdefault(index if isinstance(index, int) else position, {})
        for name, value in piece.items():
            if name == "function" and isinstance(value, dict):
                function = tool.setdefault("function", {"name": "", "arguments": ""})
                name_part = text_of(value.get("name")) or ""
                # Some endpoints say the whole name with every piece of the arguments.
                function["name"] += "" if name_part == function["name"] else name_part
                function["arguments"] += _arguments(value.get("arguments"))
            elif name != "index" and value is not None:
                tool[name] = value


def _check(said: Mapping[str, Any]) -> None:
    """Raise ``ReportedError`` for an error in the place of choices, or one that ended them: gateways report so."""
    reasons = [mapping(choice).get("finish_reason") for choice in list_of(said.get("choices"))]
    if "error" in reasons or ("error" in said and not said.get("choices")):
        raise ReportedError(_error_status(said.get("error")))


def _error_status(error: Any) -> int | None:
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _content(value: Any) -> str | None:
    """The text of a message's content; some endpoints send it in parts."""
    if isinstance(value, list):
        texts = [part.get("text") for part in value if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str)) or None
    return text_of(value)


def _arguments(value: Any) -> str:
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    return text_of(value) or ""
