"""Lines of JSON become requests; what is wrong is told by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from processors.content import sent_parts
from schemas.codec import Codec
from schemas.ids import request_event_id
from schemas.records import ContentPart, PromptRef, Request, Text
from streams.requests import BadRequestLineError, parse_request


def parse(line: dict[str, Any] | str, **changes: Any) -> Request:
    text = line if isinstance(line, str) else json.dumps(line)
    return parse_request(text, **{"tenant": "acme", "lane": "live", **changes})


def faults(line: dict[str, Any] | str) -> list[str]:
    with pytest.raises(BadRequestLineError) as raised:
        parse(line)
    return raised.value.faults


def test_a_query_alone_is_a_request_with_the_defaults_of_the_contract() -> None:
    request = parse({"query": "why?"})
    assert request.query == Text(inline="why?")
    assert request == Request(meta=request.meta, query=Text(inline="why?"))
    assert (request.meta.tenant, request.meta.lane, request.meta.stage) == ("acme", "live", "producer")


def test_every_field_arrives_and_fits_the_schema() -> None:
    request = parse(
        {
            "request_id": "r-1",
            "idempotency_key": "k-1",
            "tenant": "other",
            "team": "t",
            "user": "u",
            "session": "s",
            "feature": "f",
            "tier": "gold",
            "priority": "high",
            "ttl_ms": 1000,
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
                {"role": "tool", "content": "42", "tool_call_id": "c1"},
            ],
            "prompt": "support@7",
            "route": "fast",
            "model": "m",
            "temperature": 1,
            "top_p": 0.5,
            "max_tokens": 9,
            "stop": "END",
            "seed": 3,
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": "auto",
            "namespaces": ["a", "b"],
            "k": 4,
            "minimum_score": 0.25,
            "filters": {"lang": "en"},
            "stream": True,
            "metadata": {"ticket": "7"},
        }
    )
    assert request.meta.request_id == "r-1"
    assert request.meta.tenant == "other"
    assert request.meta.event_id == request_event_id(tenant="other", lane="live", request_id="r-1")
    assert [part.text for part in request.messages[1].content] == [Text(inline="a"), Text(inline="b")]
    assert request.messages[2].tool_calls_json == Text(inline='[{"id":"c1"}]')
    assert request.messages[3].tool_call_id == "c1"
    assert request.prompt == PromptRef(name="support", version="7")
    assert (request.sampling.temperature, request.sampling.stop, request.sampling.seed) == (1.0, ("END",), 3)
    assert request.response_format.schema_json == Text(inline='{"type":"object"}')
    assert request.tool_choice_json == '"auto"'
    assert (request.retrieval.k, request.retrieval.namespaces) == (4, ("a", "b"))
    assert request.retrieval.filters == {"lang": "en"}
    codec = Codec.offline()
    assert codec.decode(codec.encode(request), Request) == request


def test_sampling_and_retrieval_may_stand_in_objects_of_their_own() -> None:
    request = parse({"query": "q", "sampling": {"max_tokens": 5}, "retrieval": {"k": 2, "namespace": "docs"}})
    assert request.sampling.max_tokens == 5
    assert (request.retrieval.k, request.retrieval.namespaces) == (2, ("docs",))
    assert parse({"query": "q", "retrieval": False}).retrieval.enabled is False


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"query": 1}, "query: must be a valid string"),
        ({"quer": "a"}, "quer: unknown field; did you mean query?"),
        ({"query": "a", "k": True}, "k: must be a valid integer"),
        ({"query": "a", "k": 2**40}, "k: must be less than or equal to 2147483647"),
        ({"query": "a", "metadata": {"n": 1}}, "metadata.n: must be a valid string"),
        ({"query": "a", "request_id": ""}, "request_id: must not be empty"),
        ({"query": "a", "sampling": {"heat": 1}}, "sampling.heat: unknown field; remove it or put it in metadata"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: must be a valid array"),
        ({"messages": [{"role": "user"}]}, "messages.0: set content"),
        ({"query": "a", "messages": [{"role": "user", "content": "b"}]}, "the line: set either query or messages"),
        ({}, "the line: set either query or messages"),
        ({"query": "a", "k": 1, "retrieval": {"k": 2}}, "the line: k: belongs inside retrieval when retrieval is set"),
        ("[1]", "the line: must be a JSON object"),
        ("null", "the line: must be a JSON object"),
        ('{"query": "a", "temperature": NaN}', "temperature: must be a finite number"),
    ],
)
def test_a_fault_names_its_field_and_what_to_do(line: dict[str, Any] | str, fault: str) -> None:
    assert fault in faults(line)


@pytest.mark.parametrize("line", ["", "nope", '{"query": "a"', '{"query": "\\ud800"}', '{"query": "a"} x', '["' * 5000])
def test_what_is_no_json_is_told_so(line: str) -> None:
    assert faults(line)[0].startswith("the line: no valid JSON")


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(BadRequestLineError):
        parse_request(b'{"query": "\xff"}', tenant="acme", lane="live")


def test_parts_that_are_no_text_are_read_as_openai_writes_them() -> None:
    parts = [
        {"type": "text", "text": "Compare."},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}},
    ]
    (message,) = parse({"messages": [{"role": "user", "content": parts}]}).messages
    assert message.content == (
        ContentPart(type="text", text=Text(inline="Compare.")),
        ContentPart(type="image_url", url="https://example.com/a.png", detail="low"),
        ContentPart(type="image_url", data=Text(inline="AAAA"), media_type="image/png"),
        ContentPart(type="input_audio", data=Text(inline="AAAA"), media_type="audio/mpeg"),
        ContentPart(type="file", data=Text(inline="AAAA"), media_type="application/pdf", file_name="a.pdf"),
    )
    # And back, as they are sent.
    assert sent_parts(message, "m") == parts


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "smell", "text": "x"}, "type: must be 'text', 'image_url', 'input_audio' or 'file'"),
        ({"type": "image_url", "text": "x"}, "set image_url and nothing else"),
        ({"type": "text"}, "set text and nothing else"),
        ({"type": "image_url", "image_url": {"url": "data:image/png,AAAA"}}, "data:<media type>;base64,<data>"),
        ({"type": "file", "file": {"file_data": "AAAA"}}, "data:<media type>;base64,<data>"),
    ],
)
def test_a_part_that_can_not_be_read_is_refused_and_not_ignored(part: dict[str, Any], said: str) -> None:
    (found,) = faults({"messages": [{"role": "user", "content": [part]}]})
    assert said in found


def test_logprobs_without_alternatives_can_be_asked_for() -> None:
    assert parse({"query": "x", "logprobs": True}).sampling.top_logprobs == 0
    assert parse({"query": "x", "logprobs": True, "top_logprobs": 2}).sampling.top_logprobs == 2
    assert parse({"query": "x", "logprobs": False}).sampling.top_logprobs is None


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert len(faults({"query": 1, "k": "x", "bogus": 2})) == 3


def test_a_key_or_a_batch_gives_the_same_id_again_and_nothing_gives_a_fresh_one() -> None:
    def ids(line: dict[str, Any], **changes: Any) -> set[str]:
        return {parse(line, **changes).meta.request_id for _ in range(2)}

    assert len(ids({"query": "a"})) == 2
    assert len(ids({"query": "a", "idempotency_key": "k"})) == 1
    assert len(ids({"query": "a"}, batch="b", place="1")) == 1
    assert ids({"query": "a"}, batch="b", place="1") != ids({"query": "a"}, batch="b", place="2")
    assert ids({"query": "a"}, batch="b", place="1") != ids({"query": "a"}, batch="c", place="1")
    assert ids({"query": "a"}, batch="b", place="1") != ids({"query": "b"}, batch="b", place="1")
    assert ids({"query": "a", "idempotency_key": "k"}) != ids({"query": "a", "idempotency_key": "k", "tenant": "b"})
