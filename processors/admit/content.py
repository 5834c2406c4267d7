"""Rules for what is asked: the query or the conversation, and the prompt's variables."""

from __future__ import annotations

import re

from processors.admit.forms import check_name, check_no_controls, check_text, parse_json, refused
from processors.admit.policy import Limits
from processors.content import check_parts, only_text
from processors.text import inline, message_text
from schemas.records import Message, PromptRef, Request

ROLES = ("system", "developer", "user", "assistant", "tool")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


def check_content(request: Request, limits: Limits) -> None:
    """Either a query or a conversation, each message within bounds, with parts that can be sent."""
    if request.query is not None and request.messages:
        raise refused("query", "set either query or messages, not both")
    if request.query is not None:
        check_text(inline(request.query, "query"), "query", least=1, most=limits.message_chars)
    elif request.messages:
        _check_messages(request.messages, limits)
    else:
        raise refused("query", "set either query or messages; the request asks nothing")
    if request.prompt is not None:
        _check_prompt(request.prompt, limits)


def _check_messages(messages: tuple[Message, ...], limits: Limits) -> None:
    if len(messages) > limits.messages:
        raise refused("messages", f"must be at most {limits.messages} messages")
    total = data = 0
    for number, message in enumerate(messages):
        total += _check_message(message, f"messages[{number}]", limits)
        if total > limits.total_chars:
            raise refused("messages", f"must be at most {limits.total_chars} characters together")
        data += check_parts(message, f"messages[{number}]")
        if data > limits.data_chars:
            raise refused("messages", f"must hold at most {limits.data_chars} characters of data; send an address")
    if not any(message.role == "user" for message in messages):
        raise refused("messages", "must hold a message of role user: there is no question to answer")


def _check_message(message: Message, field: str, limits: Limits) -> int:
    """Check one message and return its length. A call of tools stands for a text."""
    if message.role not in ROLES:
        raise refused(f"{field}.role", f"must be one of {', '.join(ROLES)}")
    text = message_text(message, field)
    calls = message.tool_calls_json
    least = 0 if (message.role == "assistant" and calls is not None) or not only_text(message) else 1
    check_text(text, f"{field}.content", least=least, most=limits.message_chars)
    if message.name is not None:
        check_name(message.name, f"{field}.name", 64)
    if message.role == "tool" and not message.tool_call_id:
        raise refused(f"{field}.tool_call_id", "a message of role tool must name the call that it answers")
    if message.tool_call_id is not None:
        check_name(message.tool_call_id, f"{field}.tool_call_id", limits.id_chars)
    if calls is None:
        return len(text)
    if message.role != "assistant":
        raise refused(f"{field}.tool_calls_json", "only a message of role assistant calls tools")
    raw = inline(calls, f"{field}.tool_calls_json")
    if not isinstance(parse_json(raw, f"{field}.tool_calls_json", limits.tools_chars), list):
        raise refused(f"{field}.tool_calls_json", "must be a JSON array")
    return len(text) + len(raw)


def _check_prompt(prompt: PromptRef, limits: Limits) -> None:
    check_name(prompt.name, "prompt.name", 100)
    if prompt.version is not None and _VERSION.fullmatch(prompt.version) is None:
        raise refused("prompt.version", "must be the n of name@n, a positive number")
    if len(prompt.variables) > limits.variables:
        raise refused("prompt.variables", f"must be at most {limits.variables}")
    for name, value in prompt.variables.items():
        if _VARIABLE.fullmatch(name) is None:
            raise refused("prompt.variables (a name)", "must be an identifier of at most 64 characters")
        field = f"prompt.variables.{name}"
        text = inline(value, field)
        if len(text) > limits.message_chars:
            raise refused(field, f"must be at most {limits.message_chars} characters")
        check_no_controls(text, field)
