"""A chat completion's body put into the Responses API's words, and its reply put back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from processors.model.fields import MalformedError, ReportedError
from processors.model.port import ModelReply
from processors.model.responses_assembly import ResponsesAssembly
from processors.model.responses_payload import to_responses
from schemas.errors import PermanentProviderError

HI = [{"role": "user", "content": "Hi"}]


def sent(**changes: Any) -> dict[str, Any]:
    return to_responses({"model": "gpt", "messages": HI, **changes})


def test_a_plain_request_is_put_over_and_nothing_is_stored() -> None:
    assert sent(max_tokens=9, temperature=0.5, seed=7, reasoning_effort="low") == {
        "model": "gpt",
        "temperature": 0.5,
        "max_output_tokens": 9,
        "reasoning": {"effort": "low"},
        "store": False,
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
    }


def test_a_conversation_with_tools_is_put_over() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    body = sent(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/c.png"}}]},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
            {"role": "assistant", "content": "A cat."},
        ],
        tools=[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
        tool_choice={"type": "function", "function": {"name": "look"}},
    )
    assert body["input"] == [
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "https://x/c.png"}]},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A cat."}]},
    ]
    assert body["tools"] == [{"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}]
    assert body["tool_choice"] == {"type": "function", "name": "look"}


def test_formats_and_log_probabilities_are_put_over() -> None:
    schema = {"name": "answer", "schema": {"type": "object"}, "strict": True}
    body = sent(response_format={"type": "json_schema", "json_schema": schema}, logprobs=True, top_logprobs=3)
    assert body["text"] == {"format": {"type": "json_schema", **schema}}
    assert (body["include"], body["top_logprobs"]) == (["message.output_text.logprobs"], 3)
    assert sent(response_format={"type": "json_object"})["text"] == {"format": {"type": "json_object"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"stop": ["END"]},
        {"presence_penalty": 1},
        {"n": 2},
        {"modalities": ["audio"]},
        {"messages": [{"role": "function", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": {"type": "x"}},
    ],
)
def test_what_has_no_counterpart_is_refused_before_it_is_sent(changes: dict[str, Any]) -> None:
    with pytest.raises(PermanentProviderError) as caught:
        sent(**changes)
    assert caught.value.code == "unsupported_parameter"


def read(*events: dict[str, Any], heard: list[str] | None = None) -> ModelReply:
    assembly = ResponsesAssembly(None if heard is None else heard.append)
    for event in events:
        assembly.add_event(json.dumps(event))
    return assembly.reply(duration_ms=1, first_token_ms=None)


def whole(text: str = "Hello there", **changes: Any) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "logprobs": [{"token": "Hello", "logprob": -0.1}]}
    output = [{"type": "reasoning", "summary": []}, {"type": "message", "content": [part]}]
    return {"id": "r1", "model": "gpt", "status": "completed", "output": output, **changes}


def test_the_last_event_counts_and_what_was_not_heard_is_heard_then() -> None:
    heard: list[str] = []
    reply = read(
        {"type": "response.created", "response": {"status": "in_progress"}},
        {"type": "response.something_new"},
        {"type": "response.output_text.delta", "delta": "Hello"},
        {"type": "response.completed", "response": whole()},
        heard=heard,
    )
    assert (reply.text, reply.finish_reason, heard) == ("Hello there", "stop", ["Hello", " there"])
    assert json.loads(reply.logprobs_json or "")["content"][0]["token"] == "Hello"


@pytest.mark.parametrize(
    ("reason", "ours"), [("max_output_tokens", "length"), ("content_filter", "content_filter"), (None, "length")]
)
def test_an_incomplete_response_says_why(reason: str | None, ours: str) -> None:
    told = whole(status="incomplete", incomplete_details={"reason": reason})
    assert read({"type": "response.incomplete", "response": told}).finish_reason == ours


def test_a_refusal_is_no_text() -> None:
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "I can't."}]}
    reply = read({"type": "response.completed", "response": whole(output=[refusal])})
    assert (reply.text, reply.refusal) == (None, "I can't.")


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"type": "error", "code": "server_error", "message": "CANARY"}, 500),
        ({"type": "response.failed", "response": {"status": "failed", "error": {"code": "rate_limit_exceeded"}}}, 429),
        ({"type": "error", "code": None}, None),
    ],
)
def test_an_error_in_a_stream_has_the_status_it_would_have_had(event: dict[str, Any], status: int | None) -> None:
    with pytest.raises(ReportedError) as caught:
        read(event)
    assert caught.value.status == status


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"status": "queued", "output": []}'])
def test_what_is_no_finished_response_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        ResponsesAssembly().add_body(body)
