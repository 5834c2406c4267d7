"""The body of a request to OpenAI's Responses API, from that of a chat completions request.

As with Anthropic's messages, what is sent is built and hashed as a chat completion and put over at the edge, and what
has no counterpart is refused before anything is sent. ``store`` is off: the provider keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from schemas.errors import PermanentProviderError

Item = dict[str, Any]
_LIMITS = ("max_tokens", "max_completion_tokens")
_SAME = ("model", "temperature", "top_p", "parallel_tool_calls", "top_logprobs", "user")
_LEFT_OUT = frozenset({"seed", "stream", "stream_options"})
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "n": (1, None),
    "stop": (None, []),
}
_KNOWN = {"messages", "tools", "tool_choice", "response_format", "reasoning_effort", "logprobs"}


def to_responses(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The Responses API's body. Raises ``PermanentProviderError`` naming the field that has no counterpart."""
    for name, value in payload.items():
        if name in _NEUTRAL and value not in _NEUTRAL[name]:
            raise _unsupported(name)
        if name not in _KNOWN and name not in _NEUTRAL and name not in _LEFT_OUT and name not in (*_LIMITS, *_SAME):
            raise _unsupported(name)
    body = {name: payload[name] for name in _SAME if payload.get(name) is not None}
    body |= {"input": _items(payload["messages"]), "store": False}
    limit = next((payload[name] for name in _LIMITS if payload.get(name) is not None), None)
    if limit is not None:
        body["max_output_tokens"] = limit
    if payload.get("logprobs"):
        body["include"] = ["message.output_text.logprobs"]
    if payload.get("reasoning_effort") is not None:
        body["reasoning"] = {"effort": payload["reasoning_effort"]}
    if payload.get("tools"):
        body["tools"] = [_tool(tool, f"tools[{n}]") for n, tool in enumerate(payload["tools"])]
        if payload.get("tool_choice") is not None:
            body["tool_choice"] = _choice(payload["tool_choice"])
    return body | _format(payload.get("response_format") or {})


def _items(messages: Iterable[Mapping[str, Any]]) -> list[Item]:
    items: list[Item] = []
    for n, message in enumerate(messages):
        field, role = f"messages[{n}]", message["role"]
        if role == "tool":
            output = "".join(part["text"] for part in _parts(message.get("content"), field, "input_text"))
            items.append({"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": output})
            continue
        if role not in ("system", "developer", "user", "assistant"):
            raise _unsupported(f"{field}.role")
        parts = _parts(message.get("content"), field, "output_text" if role == "assistant" else "input_text")
        if parts:
            items.append({"type": "message", "role": role, "content": parts})
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            about = {"name": function.get("name"), "arguments": function.get("arguments") or "{}"}
            items.append({"type": "function_call", "call_id": call.get("id"), **about})
    return items


def _parts(content: Any, field: str, text_kind: str) -> list[Item]:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    return [_part(part, f"{field}.content[{n}]", text_kind) for n, part in enumerate(parts) if part.get("text") != ""]


def _part(part: Mapping[str, Any], field: str, text_kind: str) -> Item:
    kind = part.get("type")
    if kind == "text":
        return {"type": text_kind, "text": part["text"]}
    if kind == "refusal":
        return {"type": "refusal", "refusal": part["refusal"]}
    if kind == "image_url" and text_kind == "input_text":
        image = part.get("image_url") or {}
        detail = {"detail": image["detail"]} if image.get("detail") else {}
        return {"type": "input_image", "image_url": image.get("url"), **detail}
    if kind == "file" and text_kind == "input_text":
        return {"type": "input_file", **(part.get("file") or {})}
    raise _unsupported(f"{field} of type {kind!r}")


def _tool(tool: Mapping[str, Any], field: str) -> Item:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise _unsupported(f"{field} of type {tool.get('type')!r}")
    # Strict is this API's default, and not a chat completion's.
    return {"type": "function", "parameters": {}, **function, "strict": bool(function.get("strict"))}


def _choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    name = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    if not name:
        raise _unsupported("tool_choice")
    return {"type": "function", "name": name}


def _format(wanted: Mapping[str, Any]) -> dict[str, Any]:
    if wanted.get("type") == "json_schema":
        return {"text": {"format": {"type": "json_schema", **(wanted.get("json_schema") or {})}}}
    return {"text": {"format": {"type": "json_object"}}} if wanted.get("type") == "json_object" else {}


def _unsupported(what: str) -> PermanentProviderError:
    return PermanentProviderError("unsupported_parameter", f"{what}: the Responses API has no counterpart")
