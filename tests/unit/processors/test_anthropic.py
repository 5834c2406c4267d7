"""A chat completion's body put into Anthropic's words, and Anthropic's reply put into a chat completion's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from processors.model.anthropic_assembly import MessageAssembly, chat_usage
from processors.model.anthropic_payload import to_messages
from processors.model.fields import MalformedError, ReportedError
from processors.model.port import ModelReply
from processors.prices.tokens import counted
from schemas.errors import PermanentProviderError

HI = [{"role": "user", "content": "Hi"}]


def sent(**changes: Any) -> dict[str, Any]:
    return to_messages({"model": "claude", "messages": HI, "max_tokens": 9, **changes})


def test_a_plain_request_is_put_over() -> None:
    body = sent(temperature=0.5, top_p=0.9, stop=["END"], seed=7, presence_penalty=0)
    assert body == {
        "model": "claude",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }


def test_the_systems_word_stands_apart_and_turns_of_one_role_are_one() -> None:
    body = sent(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "user", "content": [{"type": "text", "text": "there"}, {"type": "text", "text": ""}]},
            {"role": "assistant", "content": "Hello"},
            {"role": "developer", "content": "In French."},
        ]
    )
    assert [block["text"] for block in body["system"]] == ["Be brief.", "In French."]
    assert [(turn["role"], [block["text"] for block in turn["content"]]) for turn in body["messages"]] == [
        ("user", ["Hi", "there"]),
        ("assistant", ["Hello"]),
    ]


def test_calls_of_tools_and_their_results_are_put_over() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    other = {"id": "c2", "type": "function", "function": {"name": "look", "arguments": ""}}
    function = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}, "strict": True}
    body = sent(
        messages=[
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [call, other]},
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
            {"role": "tool", "tool_call_id": "c2", "content": ""},
            {"role": "user", "content": "and now?"},
        ],
        tools=[{"type": "function", "function": function}, {"type": "function", "function": {"name": "stop"}}],
        tool_choice={"type": "function", "function": {"name": "look"}},
        parallel_tool_calls=False,
    )
    assert body["messages"][1]["content"] == [
        {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}},
        {"type": "tool_use", "id": "c2", "name": "look", "input": {}},
    ]
    assert body["messages"][2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "a cat"}]},
            {"type": "tool_result", "tool_use_id": "c2"},
            {"type": "text", "text": "and now?"},
        ],
    }
    assert body["tools"][0] == {
        "name": "look",
        "description": "Looks.",
        "input_schema": {"type": "object"},
        "strict": True,
    }
    assert body["tools"][1]["input_schema"] == {"type": "object", "properties": {}}
    assert body["tool_choice"] == {"type": "tool", "name": "look", "disable_parallel_tool_use": True}


@pytest.mark.parametrize(
    ("choice", "put"), [("auto", None), (None, None), ("none", {"type": "none"}), ("required", {"type": "any"})]
)
def test_the_choice_of_a_tool_is_put_over(choice: Any, put: Any) -> None:
    body = sent(tools=[{"type": "function", "function": {"name": "look"}}], tool_choice=choice)
    assert body.get("tool_choice") == put


def test_pictures_and_files_are_put_over() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "https://x/cat.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,BBBB", "filename": "a.pdf"}},
    ]
    (turn,) = sent(messages=[{"role": "user", "content": parts}])["messages"]
    assert turn["content"] == [
        {"type": "image", "source": {"type": "url", "url": "https://x/cat.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "BBBB"}},
    ]


def test_a_schema_and_the_effort_are_put_over() -> None:
    schema = {"type": "object"}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    body = sent(response_format=wanted, reasoning_effort="high")
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}, "effort": "high"}
    assert "output_config" not in sent(response_format={"type": "json_object"}, reasoning_effort="minimal")


@pytest.mark.parametrize(
    "changes",
    [
        {"presence_penalty": 0.5},
        {"logprobs": True},
        {"n": 2},
        {"temperature": 1.5},
        {"max_tokens": None},
        {"modalities": ["audio"]},
        {"tool_choice": "soon", "tools": [{"type": "function", "function": {"name": "look"}}]},
        {"tools": [{"type": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        {"messages": [{"role": "function", "content": "x"}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "[1]"}}]}]},
    ],
)
def test_what_has_no_counterpart_is_refused_before_it_is_sent(changes: dict[str, Any]) -> None:
    with pytest.raises(PermanentProviderError) as caught:
        sent(**changes)
    assert caught.value.code == "unsupported_parameter" and caught.value.http_status is None


def read(*events: dict[str, Any]) -> ModelReply:
    assembly = MessageAssembly()
    for event in events:
        assembly.add_event(json.dumps(event))
    return assembly.reply(duration_ms=1.0, first_token_ms=None)


START = {
    "type": "message_start",
    "message": {"id": "msg_1", "model": "claude", "usage": {"input_tokens": 5, "output_tokens": 1}},
}


def test_a_stream_is_put_together_and_unknown_events_are_passed_over() -> None:
    reply = read(
        START,
        {"type": "ping"},
        {"type": "something_new", "index": 3},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Let me "}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "look."}},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "t1", "name": "look", "input": {}},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"at"'}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ": 1}"}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use"},
            "usage": {"output_tokens": 30, "cache_read_input_tokens": 100, "input_tokens": None},
        },
        {"type": "message_stop"},
    )
    assert (reply.text, reply.finish_reason, reply.model, reply.response_id) == (
        "Let me look.",
        "tool_calls",
        "claude",
        "msg_1",
    )
    (call,) = json.loads(reply.tool_calls_json or "")
    assert call == {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    usage = counted(reply.usage or {}, None)
    assert usage is not None
    assert (usage.prompt_tokens, usage.cached_prompt_tokens, usage.completion_tokens) == (105, 100, 30)


@pytest.mark.parametrize(
    ("told", "ours"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("pause_turn", "pause_turn"),
    ],
)
def test_the_reason_to_stop_is_put_over(told: str, ours: str) -> None:
    assert read(START, {"type": "message_delta", "delta": {"stop_reason": told}}).finish_reason == ours


def test_one_body_is_read() -> None:
    assembly = MessageAssembly()
    content = [
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
        {"type": "tool_use", "id": "t2", "name": "rest", "input": {}},
    ]
    body = {"type": "message", "id": "m", "model": "c", "content": content, "stop_reason": "tool_use", "usage": {}}
    assembly.add_body(json.dumps(body).encode())
    reply = assembly.reply(duration_ms=1, first_token_ms=None)
    assert (reply.text, reply.finish_reason, reply.usage) == ("Hello", "tool_calls", None)
    calls = [call["function"]["arguments"] for call in json.loads(reply.tool_calls_json or "")]
    assert calls == ['{"at":1}', "{}"]


def test_an_error_in_a_stream_has_the_status_it_would_have_had() -> None:
    for kind, status in (("overloaded_error", 529), ("invalid_request_error", 400), ("novel_error", None)):
        with pytest.raises(ReportedError) as caught:
            read(START, {"type": "error", "error": {"type": kind, "message": "CANARY"}})
        assert caught.value.status == status and "CANARY" not in str(caught.value)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"type": "message"}', b'{"choices": []}'])
def test_what_is_no_message_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        MessageAssembly().add_body(body)


def test_counts_that_can_not_be_go_on_for_whoever_books_them() -> None:
    assert chat_usage({}) is None
    told = chat_usage({"input_tokens": -5, "output_tokens": "many"})
    assert told is not None and counted(told, None) is None
