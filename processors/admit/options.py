"""Rules for how it is to be answered: sampling, form, tools, retrieval."""

from __future__ import annotations

from typing import Any

from processors.admit.forms import (
    check_labels,
    check_name,
    check_no_controls,
    check_range,
    parse_json,
    refused,
)
from processors.admit.policy import Limits
from processors.admit.schema import check_schema
from processors.text import inline
from schemas.records import Request, ResponseFormat, Retrieval, Sampling

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
FORMATS = ("text", "json_object", "json_schema")
CHOICES = ("none", "auto", "required")
_SEED = 2**63 - 1


def check_options(request: Request, limits: Limits) -> None:
    """All of them."""
    _check_sampling(request.sampling, limits)
    _check_format(request.response_format, limits)
    _check_tools(request, limits)
    _check_retrieval(request.retrieval, limits)
    if request.cache not in ("default", "off"):
        raise refused("cache", "must be default or off")


def _check_sampling(sampling: Sampling, limits: Limits) -> None:
    check_range(sampling.temperature, "sampling.temperature", 0, 2)
    check_range(sampling.top_p, "sampling.top_p", 0, 1)
    check_range(sampling.max_tokens, "sampling.max_tokens", 1, limits.max_tokens)
    check_range(sampling.seed, "sampling.seed", -_SEED, _SEED)
    check_range(sampling.presence_penalty, "sampling.presence_penalty", -2, 2)
    check_range(sampling.frequency_penalty, "sampling.frequency_penalty", -2, 2)
    check_range(sampling.top_logprobs, "sampling.top_logprobs", 0, limits.top_logprobs)
    if sampling.reasoning_effort is not None and sampling.reasoning_effort not in EFFORTS:
        raise refused("sampling.reasoning_effort", f"must be one of {', '.join(EFFORTS)}")
    if sampling.samples != 1:
        raise refused("sampling.samples", "must be 1; a route's fan_out asks for several answers", "unsupported_option")
    if len(sampling.stop) > limits.stop_texts:
        raise refused("sampling.stop", f"must be at most {limits.stop_texts} texts")
    for number, text in enumerate(sampling.stop):
        field = f"sampling.stop[{number}]"
        if not 1 <= len(text) <= limits.stop_chars:
            raise refused(field, f"must be 1 to {limits.stop_chars} characters")
        check_no_controls(text, field)


def _check_format(wanted: ResponseFormat, limits: Limits) -> None:
    if wanted.type not in FORMATS:
        raise refused("response_format.type", f"must be one of {', '.join(FORMATS)}")
    if wanted.schema_name is not None:
        check_name(wanted.schema_name, "response_format.schema_name", 64)
    field = "response_format.schema_json"
    if wanted.type == "json_schema":
        if wanted.schema_json is None:
            raise refused(field, "must be set when the type is json_schema")
        check_schema(parse_json(inline(wanted.schema_json, field), field, limits.schema_chars), field)
    elif wanted.schema_json is not None:
        raise refused(field, f"a schema has no effect with the type {wanted.type}; set json_schema")


def _check_tools(request: Request, limits: Limits) -> None:
    names: set[str] = set()
    if request.tools_json is not None:
        tools = parse_json(inline(request.tools_json, "tools_json"), "tools_json", limits.tools_chars)
        if not isinstance(tools, list) or not 1 <= len(tools) <= limits.tools:
            raise refused("tools_json", f"must be a JSON array of 1 to {limits.tools} tools")
        names = {_tool_name(tool, f"tools_json[{number}]") for number, tool in enumerate(tools)}
    if request.tool_choice_json is None:
        return
    choice = parse_json(request.tool_choice_json, "tool_choice_json", 1024)
    if not names:
        raise refused("tool_choice_json", "there is nothing to choose from: tools_json is not set")
    if isinstance(choice, dict):
        function = choice.get("function")
        if not isinstance(function, dict) or function.get("name") not in names:
            raise refused("tool_choice_json", "must name a function among tools_json")
    elif choice not in CHOICES:
        raise refused("tool_choice_json", f"must be one of {', '.join(CHOICES)} as a JSON string, or name a function")


def _tool_name(tool: Any, field: str) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type") != "function":
        raise refused(field, 'must be an object of type "function" with its function')
    name = function.get("name")
    if not isinstance(name, str):
        raise refused(f"{field}.function.name", "must be a text")
    check_name(name, f"{field}.function.name", 64)
    return name


def _check_retrieval(retrieval: Retrieval, limits: Limits) -> None:
    check_range(retrieval.k, "retrieval.k", 1, limits.k)
    check_range(retrieval.minimum_score, "retrieval.minimum_score", -1, 1)
    if len(retrieval.namespaces) > limits.namespaces:
        raise refused("retrieval.namespaces", f"must be at most {limits.namespaces}")
    for number, namespace in enumerate(retrieval.namespaces):
        check_name(namespace, f"retrieval.namespaces[{number}]", 100)
    check_labels(
        retrieval.filters, "retrieval.filters", entries=limits.filters, value_chars=limits.metadata_value_chars
    )
