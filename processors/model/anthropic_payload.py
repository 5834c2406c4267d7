"""The body of Anthropic's messages request, from that of a chat completions request.

What is sent is built, hashed and judged as a chat completion, whatever the deployment speaks; it is put into
Anthropic's words here, at the edge. What has no counterpart is refused before anything is sent, so that no answer is
given under other terms than those asked for. Left out without a word are ``seed`` (best effort with OpenAI too) and
JSON mode without a schema (the answer is checked all the same).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from schemas.errors import PermanentProviderError

Block = dict[str, Any]
_LIMITS = ("max_tokens", "max_completion_tokens")
_PLAIN = ("model", "temperature", "top_p")
# No counterpart: left out, or fine as long as they change nothing.
_LEFT_OUT = frozenset({"seed", "user", "stream", "stream_options"})
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "n": (1, None),
    "logprobs": (False, None),
    "top_logprobs": (None, 0),
}
_KNOWN = {"messages", "stop", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort"}
_HIGHEST_TEMPERATURE = 1.0


def to_messages(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Anthropic's body. Raises ``PermanentProviderError`` naming the field that has no counterpart."""
    for name, value in payload.items():
        if name in _NEUTRAL and value not in _NEUTRAL[name]:
            raise _unsupported(name)
        if name not in _KNOWN and name not in _NEUTRAL and name not in _LEFT_OUT and name not in (*_LIMITS, *_PLAIN):
            raise _unsupported(name)
    body = {name: payload[name] for name in _PLAIN if payload.get(name) is not None}
    if body.get("temperature", 0) > _HIGHEST_TEMPERATURE:
        raise _unsupported("temperature of more than 1")
    limit = next((payload[name] for name in _LIMITS if payload.get(name) is not None), None)
    if limit is None:
        raise _unsupported("request without max_tokens")
    body["max_tokens"] = limit
    body |= _conversation(payload["messages"])
    if payload.get("stop"):
        stop = payload["stop"]
        body["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    return body | _tools(payload) | _output(payload)


def _conversation(messages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Turns of one role follow each other as one, and the system's word stands apart."""
    system: list[Block] = []
    turns: list[dict[str, Any]] = []
    for n, message in enumerate(messages):
        field, role = f"messages[{n}]", message["role"]
        if role in ("system", "developer"):
            system += _blocks(message.get("content"), field)
            continue
        blocks = _turn(message, field)
        spoken_by = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == spoken_by:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": spoken_by, "content": blocks})
    return {"messages": turns} | ({"system": system} if system else {})


def _turn(message: Mapping[str, Any], field: str) -> list[Block]:
    role = message["role"]
    if role == "tool":
        result: Block = {"type": "tool_result", "tool_use_id": message.get("tool_call_id")}
        content = _blocks(message.get("content"), field)
        return [result | ({"content": content} if content else {})]
    if role not in ("user", "assistant"):
        raise _unsupported(f"{field}.role")
    blocks = _blocks(message.get("content"), field)
    calls = message.get("tool_calls") or ()
    return blocks + [_call(call, f"{field}.tool_calls") for call in calls]


def _call(call: Mapping[str, Any], field: str) -> Block:
    function = call.get("function") or {}
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise _unsupported(f"{field} whose arguments are no JSON object")
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments}


def _blocks(content: Any, field: str) -> list[Block]:
    """A message's content as blocks; an empty text is none."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    blocks = [_block(part, f"{field}.content[{n}]") for n, part in enumerate(parts)]
    return [block for block in blocks if block.get("text") != ""]


def _block(part: Mapping[str, Any], field: str) -> Block:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": part["text"]}
    if kind == "refusal":
        return {"type": "text", "text": part["refusal"]}
    if kind == "image_url":
        return {"type": "image", "source": _source(str((part.get("image_url") or {}).get("url", "")), field)}
    if kind == "file" and (part.get("file") or {}).get("file_data"):
        return {"type": "document", "source": _source(str(part["file"]["file_data"]), field)}
    raise _unsupported(f"{field} of type {kind!r}")


def _source(url: str, field: str) -> Block:
    """An address, or the data itself where the address holds it (RFC 2397)."""
    if not url.startswith("data:"):
        if not url.startswith("https://"):
            raise _unsupported(f"{field}: an address that is neither https nor data")
        return {"type": "url", "url": url}
    head, _, data = url.removeprefix("data:").partition(",")
    media_type, _, encoding = head.partition(";")
    if encoding != "base64":
        raise _unsupported(f"{field}: data that is not in base64")
    return {"type": "base64", "media_type": media_type, "data": data}


def _tools(payload: Mapping[str, Any]) -> dict[str, Any]:
    if not payload.get("tools"):
        return {}
    body: dict[str, Any] = {"tools": [_tool(tool, f"tools[{n}]") for n, tool in enumerate(payload["tools"])]}
    choice = _choice(payload.get("tool_choice"))
    if payload.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return body | ({"tool_choice": choice} if choice != {"type": "auto"} else {})


def _tool(tool: Mapping[str, Any], field: str) -> Block:
    function = tool.get("function")
    if tool.get("type") != "function" or not isinstance(function, dict):
        raise _unsupported(f"{field} of type {tool.get('type')!r}")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    body = {"name": function.get("name"), "input_schema": schema}
    if function.get("description"):
        body["description"] = function["description"]
    if function.get("strict"):
        body["strict"] = True
    return body


def _choice(choice: Any) -> Block:
    known = {None: "auto", "auto": "auto", "none": "none", "required": "any"}
    if choice is None or isinstance(choice, str):
        if choice not in known:
            raise _unsupported("tool_choice")
        return {"type": known[choice]}
    name = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    if not name:
        raise _unsupported("tool_choice")
    return {"type": "tool", "name": name}


def _output(payload: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    wanted = payload.get("response_format") or {}
    schema = (wanted.get("json_schema") or {}).get("schema")
    if wanted.get("type") == "json_schema" and schema is not None:
        config["format"] = {"type": "json_schema", "schema": schema}
    effort = payload.get("reasoning_effort")
    if effort is not None and effort not in ("none", "minimal"):
        config["effort"] = effort
    return {"output_config": config} if config else {}


def _unsupported(what: str) -> PermanentProviderError:
    return PermanentProviderError(
        "unsupported_parameter", f"{what}: Anthropic's API has no counterpart; nothing was sent"
    )
