"""Admission: every rule names its field."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.admit import AdmitPolicy
from processors.admit.rules import check_origin
from schemas.errors import PoisonError, RefusedError
from schemas.records import (
    Admitted,
    ContentPart,
    Message,
    PromptRef,
    Request,
    ResponseFormat,
    Retrieval,
    Sampling,
    Text,
)
from tests.support.admission import CODEC, Bench, conversation, request, said

PICTURE = ContentPart(type="image_url", url="https://x/y", detail="low")


def look(**part: Any) -> Request:
    """A question about something that is no text."""
    return conversation(
        Message(role="user", content=(*said("look").content, ContentPart(**{"type": "image_url", **part})))
    )


BROKEN: list[tuple[str, str, Request]] = [
    ("query", "invalid_request", request(query=None)),
    ("query", "invalid_request", request(query=Text(inline=""))),
    ("query", "invalid_request", request(query=Text(inline="x" * 10_001))),
    ("query", "invalid_request", request(query=Text(inline="a\x00b"))),
    ("query", "invalid_request", request(query=Text(inline="a\x1bb"))),
    ("query", "invalid_request", request(query=Text(inline="a\x85b"))),
    ("query", "invalid_request", request(messages=(said("hi"),))),
    ("query.inline", "invalid_request", request(query=Text())),
    ("query.ref", "unknown_body", request(query=Text(ref="sha256:00"))),
    ("query.sealed", "unsupported_text", request(query=Text(sealed=b"x"))),
    ("messages", "invalid_request", conversation(said("hi", "assistant"))),
    ("messages", "invalid_request", conversation(*[said("hi")] * 257)),
    ("messages", "invalid_request", conversation(*[said("x" * 10_000)] * 21)),
    ("messages[0].role", "invalid_request", conversation(said("hi", "robot"))),
    ("messages[1].content", "invalid_request", conversation(said("hi"), said(""))),
    ("messages[1].content", "invalid_request", conversation(said("hi"), said("x" * 10_001))),
    ("messages[0].content", "invalid_request", conversation(Message(role="user"))),
    ("messages[0].content", "invalid_request", conversation(said("bell\x07"))),
    (
        "messages[0].content",
        "invalid_request",
        conversation(Message(role="user", content=said("x" * 6_000).content * 2)),
    ),
    (
        "messages[1].content[0].type",
        "invalid_request",
        conversation(said("hi"), Message(role="tool", tool_call_id="c", content=(PICTURE,))),
    ),
    ("messages[0].content[1].url", "invalid_request", look(type="image_url", url="http://x/y")),
    ("messages[0].content[1].url", "invalid_request", look(type="image_url", url="https://x/y z")),
    (
        "messages[0].content[1].url",
        "invalid_request",
        look(type="image_url", url="https://x", data=Text(inline="AAAA")),
    ),
    ("messages[0].content[1].url", "invalid_request", look(type="file", url="https://x/y")),
    ("messages[0].content[1].data", "invalid_request", look(type="image_url")),
    ("messages[0].content[1].data", "invalid_request", look(data=Text(inline="AAA"), media_type="image/png")),
    ("messages[0].content[1].data", "invalid_request", look(data=Text(inline="AA\nA"), media_type="image/png")),
    ("messages[0].content[1].media_type", "invalid_request", look(data=Text(inline="AAAA"))),
    ("messages[0].content[1].media_type", "invalid_request", look(data=Text(inline="AAAA"), media_type="text/html")),
    (
        "messages[0].content[1].media_type",
        "invalid_request",
        look(type="input_audio", data=Text(inline="AAAA"), media_type="audio/ogg"),
    ),
    ("messages[0].content[1].detail", "invalid_request", look(type="image_url", url="https://x/y", detail="all")),
    (
        "messages[0].content[1].file_name",
        "invalid_request",
        look(type="file", data=Text(inline="AAAA"), media_type="application/pdf", file_name="a\nb"),
    ),
    ("messages", "invalid_request", look(data=Text(inline="A" * 2_000_004), media_type="image/png")),
    (
        "messages[0].content[0].type",
        "unsupported_content",
        conversation(Message(role="user", content=(ContentPart(type="smell", text=Text(inline="x")),))),
    ),
    (
        "messages[0].content[0].text",
        "invalid_request",
        conversation(Message(role="user", content=(ContentPart(type="text"),))),
    ),
    ("messages[0].name", "invalid_request", conversation(said("hi", name="a b"))),
    ("messages[1].tool_call_id", "invalid_request", conversation(said("hi"), said("42", "tool"))),
    (
        "messages[1].tool_calls_json",
        "invalid_request",
        conversation(said("hi"), said("x", "assistant", tool_calls_json=Text(inline="{"))),
    ),
    (
        "messages[0].tool_calls_json",
        "invalid_request",
        conversation(said("hi", tool_calls_json=Text(inline="[]"))),
    ),
    ("user", "invalid_request", request(user="a b")),
    ("user", "invalid_request", request(user="kim\n")),
    ("user", "invalid_request", request(user="kim@example.com")),
    ("user", "invalid_request", request(user="x" * 129)),
    ("session", "invalid_request", request(session="two words")),
    ("session", "invalid_request", request(session="s\n")),
    ("team", "invalid_request", request(team="a\nb")),
    ("feature", "invalid_request", request(feature="x" * 129)),
    ("idempotency_key", "invalid_request", request(idempotency_key="")),
    ("idempotency_key", "invalid_request", request(idempotency_key="a b")),
    ("idempotency_key", "invalid_request", request(idempotency_key="k" * 256)),
    ("tier", "invalid_request", request(tier="gold")),
    ("priority", "invalid_request", request(priority="urgent")),
    ("ttl_ms", "invalid_request", request(ttl_ms=0)),
    ("ttl_ms", "invalid_request", request(ttl_ms=-1)),
    ("ttl_ms", "invalid_request", request(ttl_ms=10**12)),
    ("route", "unknown_route", request(route="nowhere")),
    ("model", "invalid_request", request(model="gpt 5")),
    ("cache", "invalid_request", request(cache="yes")),
    ("metadata", "invalid_request", request(metadata={str(n): "" for n in range(33)})),
    ("metadata.k", "invalid_request", request(metadata={"k": "x" * 513})),
    ("metadata.k", "invalid_request", request(metadata={"k": "\x00"})),
    ("metadata (a key)", "invalid_request", request(metadata={"a key": "v"})),
    ("prompt.name", "invalid_request", request(prompt=PromptRef(name="support@7"))),
    ("prompt.version", "invalid_request", request(prompt=PromptRef(name="support", version="latest"))),
    ("prompt.version", "invalid_request", request(prompt=PromptRef(name="support", version="7\n"))),
    (
        "prompt.variables.tone",
        "invalid_request",
        request(prompt=PromptRef(name="support", variables={"tone": Text(inline="\x02")})),
    ),
    (
        "prompt.variables (a name)",
        "invalid_request",
        request(prompt=PromptRef(name="support", variables={"a-b": Text(inline="x")})),
    ),
    ("sampling.temperature", "invalid_request", request(sampling=Sampling(temperature=2.1))),
    ("sampling.temperature", "invalid_request", request(sampling=Sampling(temperature=float("nan")))),
    ("sampling.top_p", "invalid_request", request(sampling=Sampling(top_p=-0.1))),
    ("sampling.max_tokens", "invalid_request", request(sampling=Sampling(max_tokens=0))),
    ("sampling.presence_penalty", "invalid_request", request(sampling=Sampling(presence_penalty=3))),
    ("sampling.frequency_penalty", "invalid_request", request(sampling=Sampling(frequency_penalty=-3))),
    ("sampling.top_logprobs", "invalid_request", request(sampling=Sampling(top_logprobs=21))),
    ("sampling.reasoning_effort", "invalid_request", request(sampling=Sampling(reasoning_effort="extreme"))),
    ("sampling.samples", "unsupported_option", request(sampling=Sampling(samples=2))),
    ("sampling.stop", "invalid_request", request(sampling=Sampling(stop=("a",) * 5))),
    ("sampling.stop[1]", "invalid_request", request(sampling=Sampling(stop=("a", "")))),
    ("response_format.type", "invalid_request", request(response_format=ResponseFormat(type="xml"))),
    (
        "response_format.schema_json",
        "invalid_request",
        request(response_format=ResponseFormat(type="json_schema")),
    ),
    (
        "response_format.schema_json",
        "invalid_request",
        request(response_format=ResponseFormat(type="text", schema_json=Text(inline="{}"))),
    ),
    (
        "response_format.schema_name",
        "invalid_request",
        request(response_format=ResponseFormat(schema_name="a b")),
    ),
    ("tools_json", "invalid_request", request(tools_json=Text(inline="{}"))),
    ("tools_json", "invalid_request", request(tools_json=Text(inline="[]"))),
    ("tools_json", "invalid_request", request(tools_json=Text(inline="nonsense"))),
    ("tools_json[0]", "invalid_request", request(tools_json=Text(inline='[{"type":"magic"}]'))),
    (
        "tools_json[0].function.name",
        "invalid_request",
        request(tools_json=Text(inline='[{"type":"function","function":{}}]')),
    ),
    ("tool_choice_json", "invalid_request", request(tool_choice_json='"auto"')),
    ("retrieval.k", "invalid_request", request(retrieval=Retrieval(k=0))),
    ("retrieval.k", "invalid_request", request(retrieval=Retrieval(k=51))),
    ("retrieval.minimum_score", "invalid_request", request(retrieval=Retrieval(minimum_score=1.5))),
    ("retrieval.namespaces", "invalid_request", request(retrieval=Retrieval(namespaces=("a",) * 17))),
    ("retrieval.namespaces[0]", "invalid_request", request(retrieval=Retrieval(namespaces=("",)))),
    ("retrieval.namespaces[0]", "invalid_request", request(retrieval=Retrieval(namespaces=("a b",)))),
    ("retrieval.filters.lang", "invalid_request", request(retrieval=Retrieval(filters={"lang": "\x00"}))),
    ("meta.request_id", "invalid_request", request(meta={"request_id": "a b"})),
    ("meta.request_id", "invalid_request", request(meta={"request_id": "r" * 201})),
    ("meta.tenant", "invalid_request", request(meta={"tenant": "a/b"})),
    ("meta.lane", "invalid_request", request(meta={"lane": "bulk"})),
    ("meta.run", "invalid_request", request(meta={"run": "replay-1"})),
]


@pytest.mark.parametrize(("path", "code", "broken"), BROKEN, ids=[f"{n}-{b[0]}" for n, b in enumerate(BROKEN)])
async def test_every_rule_names_its_field(path: str, code: str, broken: Request) -> None:
    answer = await Bench().refusal(broken)
    assert answer.status == "rejected"
    assert answer.failure is not None
    assert (answer.failure.field, answer.failure.code, answer.failure.error_class) == (path, code, "policy")
    assert answer.failure.message.startswith(f"{path}: ")
    assert not answer.failure.retryable
    # Finality is claimed under the lane of the topic, whatever the producer wrote.
    assert (answer.meta.lane, answer.meta.run, answer.meta.stage) == ("live", "", "admit")


TOOLS = Text(inline='[{"type":"function","function":{"name":"look_up","parameters":{}}}]')
SOUND: list[Request] = [
    conversation(Message(role="user", content=(PICTURE,))),
    look(data=Text(inline="AAA="), media_type="image/png"),
    look(type="input_audio", data=Text(inline="AAAA"), media_type="audio/mpeg"),
    look(type="file", data=Text(inline="AAAA"), media_type="application/pdf", file_name="a report.pdf"),
    request(query=Text(inline="a")),
    request(query=Text(inline="x" * 10_000)),
    request(query=Text(inline="line\r\n\tline\u200d👩\u200d💻")),
    request(user="Kim_7-b", session="s/1:2", team="Customer Care", feature="chat"),
    conversation(said("be kind", "system"), said("hi"), said("hello", "assistant"), said("why?")),
    conversation(
        said("hi"),
        Message(role="assistant", tool_calls_json=Text(inline='[{"id":"c1"}]')),
        said("42", "tool", tool_call_id="c1"),
    ),
    request(sampling=Sampling(temperature=0, top_p=1, max_tokens=1, stop=("\n",), seed=-1)),
    request(response_format=ResponseFormat(type="json_object")),
    request(tools_json=TOOLS),
    request(tools_json=TOOLS, tool_choice_json='"required"'),
    request(tools_json=TOOLS, tool_choice_json='{"type":"function","function":{"name":"look_up"}}'),
    request(stream=True, cache="off", priority="low", tier="standard", route="default"),
    request(prompt=PromptRef(name="support", version="7", variables={"tone": Text(inline="")})),
    request(retrieval=Retrieval(enabled=False, k=1, namespaces=("python", "a.b-c_d"), filters={"lang": "en"})),
    request(metadata={"trace": "abc", "note": "zwei Wörter"}),
    request(meta={"tenant": "somebody-new"}),
]


@pytest.mark.parametrize("sound", SOUND)
async def test_what_keeps_the_rules_is_admitted(sound: Request) -> None:
    admitted = await Bench().admitted(sound)
    assert replace(admitted.request, meta=sound.meta) == sound
    assert admitted.admission.route == "default"


@given(st.text(min_size=1, max_size=6))
async def test_a_user_id_is_matched_whole(user: str) -> None:
    (output,) = await Bench().admit(request(user=user))
    allowed = all(c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-" for c in user)
    assert isinstance(output, Admitted) == allowed


@given(st.text(min_size=1, max_size=20))
async def test_control_characters_are_refused_but_newline_return_and_tab(text: str) -> None:
    (output,) = await Bench().admit(request(query=Text(inline=text)))
    allowed = all(unicodedata.category(c) != "Cc" or c in "\n\r\t" for c in text)
    assert isinstance(output, Admitted) == allowed


@pytest.mark.parametrize("request_id", ["", "a\x00b", "a\nb", "a\x1fb"])
async def test_an_id_that_can_not_be_a_key_is_poison(request_id: str) -> None:
    with pytest.raises(PoisonError, match="request_id"):
        await Bench().admit(request(meta={"request_id": request_id}))


@pytest.mark.parametrize(
    "schema",
    [
        '{"$id":"https://example.com/a.json","$ref":"#/$defs/b","$defs":{"b":{"type":"object"}}}',
        '{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"b":{}},"$ref":"#/definitions/b"}',
        '{"$schema":"https://json-schema.org/draft/2020-12/schema","$ref":"#b","$defs":{"b":{"$anchor":"b"}}}',
    ],
)
async def test_a_schema_may_say_its_draft_its_name_and_refer_to_its_parts(schema: str) -> None:
    wanted = ResponseFormat(type="json_schema", schema_json=Text(inline=schema))
    assert await Bench().admitted(request(response_format=wanted))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("[]", "JSON object"),
        ("{", "valid JSON"),
        ('{"type":"objekt"}', "no JSON schema"),
        ('{"properties":{"a":{"minimum":"x"}}}', "no JSON schema"),
        ('{"$ref":"https://example.com/s.json"}', "inside the schema"),
        ('{"properties":{"a":{"$ref":"#/$defs/gone"}}}', "leads nowhere"),
        ('{"properties":{"a":{"allOf":[{"$id":"https://example.com/"}]}}}', "not supported"),
        ('{"$schema":"http://json-schema.org/draft-04/schema#"}', "$schema must be one of"),
        ('{"$schema":"http://json-schema.org/draft-07/schema#","items":[7]}', "no JSON schema of draft 7"),
        ('{"properties":{"a":{"pattern":"(?=a)b"}}}', "RE2"),
        ('{"patternProperties":{"(a)\\\\1":{}}}', "RE2"),
        ('{"pattern":"(\\\\p{L}|a){0,500}"}', "too large"),
        ('{"$defs":{"a":{"patternProperties":{"a":{}}}},"unevaluatedProperties":false}', "not supported together"),
        ('{"properties":{"a":{"pattern":"' + "x" * 300 + '"}}}', "at most"),
        ('{"items":' * 70 + "{}" + "}" * 70, "deep"),
    ],
)
async def test_a_schema_that_could_never_be_checked_is_refused(schema: str, why: str) -> None:
    wanted = ResponseFormat(type="json_schema", schema_json=Text(inline=schema))
    answer = await Bench().refusal(request(response_format=wanted))
    assert answer.failure is not None
    assert answer.failure.field == "response_format.schema_json"
    assert why in answer.failure.message


async def test_a_sound_schema_is_admitted() -> None:
    schema = '{"$defs":{"n":{"type":"integer"}},"properties":{"a":{"$ref":"#/$defs/n"},"$ref":{"pattern":"^(a|aa)+$"}}}'
    wanted = ResponseFormat(type="json_schema", schema_json=Text(inline=schema), schema_name="numbers", strict=True)
    await Bench().admitted(request(response_format=wanted))


async def test_tenants_are_known_where_producers_are_not_trusted() -> None:
    bench = Bench(policy=AdmitPolicy(trust_producers=False, tenants={"acme": "gold"}))
    answer = await bench.refusal(request())
    assert answer.failure is not None
    assert (answer.failure.code, answer.failure.field) == ("unknown_tenant", "meta.tenant")
    admitted = await bench.admitted(request(meta={"tenant": "acme"}, tier="gold"))
    assert admitted.admission.tier == "gold"
    assert (await bench.refusal(request(meta={"tenant": "acme", "request_id": "r2"}, tier="free"))).status == "rejected"


def test_a_claim_to_another_tenant_than_the_topics_is_refused() -> None:
    policy = AdmitPolicy(trust_producers=False, tenants={"acme": "gold", "globex": "gold"})
    claimed = request(meta={"tenant": "globex"}).meta
    # The runner has the topic's tenant in the meta that it passes on.
    owner = replace(claimed, tenant="acme")
    with pytest.raises(RefusedError, match="belongs to the tenant acme") as refused:
        check_origin(owner, claimed, policy)
    assert refused.value.code == "tenant_mismatch"
    check_origin(owner, owner, policy)
    check_origin(owner, replace(claimed, tenant=""), policy)


async def test_a_refused_answer_says_who_asked_what() -> None:
    answer = await Bench().refusal(request(user="kim", team="care", route="nowhere", metadata={"a": "b"}))
    assert (answer.user, answer.team, answer.metadata) == ("kim", "care", {"a": "b"})
    assert answer.question == Text(inline="What is a stream?")
    assert answer.policy_version == "1"


async def test_a_refused_answer_carries_nothing_huge() -> None:
    huge = "x" * 900_000
    answer = await Bench().refusal(
        request(query=Text(inline=huge), user=huge, idempotency_key=huge, metadata={"k": huge}, route=huge)
    )
    assert len(CODEC.encode(answer)) < 4_000
