"""The filter: what it refuses, what it cites, and what its verdicts say."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from processors.clock import FakeClock
from processors.event import Incoming
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from schemas.codec import Codec
from schemas.records import (
    Admission,
    Answer,
    Attempt,
    Completion,
    Grounding,
    Message,
    Meta,
    Passage,
    Request,
    ResponseFormat,
    Sampling,
    Text,
    Timing,
    Usage,
    Verdict,
)

CODEC = Codec.offline()
PASSAGES = tuple(
    Passage(
        passage_id=f"p{n}",
        document_id=f"d{n}",
        namespace="docs",
        number=n,
        title=f"Title {n}",
        uri=f"https://example.com/{n}",
        digest=f"{n}" * 64,
        score=0.9 - n / 10,
        text=Text(inline=f"Passage {n}"),
    )
    for n in (1, 2, 3)
)
JSON_OBJECT = ResponseFormat(type="json_object")


def schema(text: str) -> ResponseFormat:
    return ResponseFormat(type="json_schema", schema_json=Text(inline=text))


def completion(text: str | None = "A log.", *, wanted: ResponseFormat | None = None, **fields: Any) -> Completion:
    clock = FakeClock()
    meta = Meta(event_id="c", request_id="r", tenant="acme", lane="live", accepted_at=clock.now())
    known: dict[str, Any] = {
        "meta": meta,
        "request": Request(
            meta=meta,
            query=Text(inline="What is a stream?"),
            user="kim",
            team="care",
            metadata={"a": "b"},
            response_format=wanted or ResponseFormat(),
            sampling=Sampling(max_tokens=5),
        ),
        "admission": Admission(
            route="fast",
            tier="gold",
            priority="high",
            expires_at=clock.now() + timedelta(seconds=60),
            verdicts=(Verdict(guard="admission", outcome="pass"),),
        ),
        "grounding": Grounding(
            messages=(Message(role="user"),),
            question=Text(inline="What is a stream?"),
            prompt_version="answer@1",
            index_version="i1",
        ),
        "text": None if text is None else Text(inline=text),
        "finish_reason": "stop",
        "model": "m",
        "usage": Usage(prompt_tokens=10, completion_tokens=3),
        "cost_usd": Decimal("0.25"),
        "attempts": (Attempt(attempt_id="a", state="done"),),
    }
    return Completion(**{**known, **fields})


def grounded(text: str, passages: tuple[Passage, ...] = PASSAGES, **fields: Any) -> Completion:
    plain = completion(text, **fields)
    return replace(plain, grounding=replace(plain.grounding, passages=passages))


async def answer(record: Completion, *, policy: FilterPolicy | None = None, late_s: float = 0) -> Answer:
    clock = FakeClock()
    clock.advance(late_s)
    incoming = Incoming(
        record=record,
        meta=record.meta,
        raw=b"",
        appended_at=clock.now(),
        control_offset=4,
        timings=(Timing(stage="complete", service_ms=12),),
    )
    (output,) = await Filter(policy=policy or FilterPolicy(), clock=clock)(incoming)
    assert isinstance(output, Answer)
    CODEC.encode(output)
    return output


def verdict(given: Answer, guard: str) -> Verdict:
    (found,) = [v for v in given.verdicts if v.guard == guard]
    return found


async def test_an_answer_holds_all_that_is_known_of_its_request() -> None:
    given = await answer(completion())
    assert (given.status, given.text, given.failure) == ("answered", Text(inline="A log."), None)
    assert (given.user, given.team, given.tier, given.priority, given.route) == ("kim", "care", "gold", "high", "fast")
    assert (given.question, given.metadata) == (Text(inline="What is a stream?"), {"a": "b"})
    assert (given.prompt_version, given.index_version, given.policy_version) == ("answer@1", "i1", "1")
    assert (given.cost_usd, given.usage.completion_tokens, len(given.attempts)) == (Decimal("0.25"), 3, 1)
    assert given.timings == (Timing(stage="complete", service_ms=12),)
    assert (given.meta.stage, given.meta.causation_id, given.meta.control_offset) == ("filter", "c", 4)
    assert [(v.guard, v.outcome) for v in given.verdicts] == [
        ("admission", "pass"),
        ("special_tokens", "pass"),
        ("personal_data", "pass"),
    ]


async def test_the_same_completion_gives_the_same_answer() -> None:
    assert await answer(grounded("x [1]")) == await answer(grounded("x [1]"))


@pytest.mark.parametrize("text", [None, "", "  \n", "<|im_end|>", " </s>\n"])
async def test_an_empty_text_fails(text: str | None) -> None:
    given = await answer(completion(text))
    assert given.failure is not None
    assert (given.status, given.failure.code, given.text) == ("failed", "empty_output", None)
    # It was paid for all the same.
    assert given.cost_usd == Decimal("0.25")
    assert verdict(given, "whole").outcome == "failed"


async def test_a_text_that_was_cut_off_fails_unless_the_policy_allows_it() -> None:
    cut = completion("A lo", finish_reason="length")
    given = await answer(cut)
    assert given.failure is not None
    assert (given.status, given.failure.code) == ("failed", "output_truncated")
    assert given.failure.field == "sampling.max_tokens"
    allowed = await answer(cut, policy=FilterPolicy(allow_truncated=True))
    assert (allowed.status, allowed.finish_reason) == ("answered", "length")
    assert verdict(allowed, "whole").category == "truncated"


async def test_json_that_was_cut_off_fails_whatever_the_policy() -> None:
    cut = completion("{}", finish_reason="length", wanted=JSON_OBJECT)
    assert (await answer(cut, policy=FilterPolicy(allow_truncated=True))).status == "failed"


async def test_what_the_provider_held_back_is_blocked() -> None:
    given = await answer(completion("half a tex", finish_reason="content_filter"))
    assert given.failure is not None
    assert (given.status, given.failure.code, given.text) == ("blocked", "content_filter", None)
    assert verdict(given, "provider").outcome == "blocked"


async def test_a_refusal_is_blocked_and_cleaned() -> None:
    given = await answer(completion(None, refusal=Text(inline="I can't mail kim@example.com.<|im_end|>")))
    assert given.failure is not None
    assert (given.status, given.failure.code) == ("blocked", "model_refused")
    assert given.refusal == Text(inline="I can't mail [EMAIL].")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("no json", "invalid_json"),
        ("[1]", "invalid_json"),
        ('{"a": 1', "invalid_json"),
        ('{"a": NaN}', "invalid_json"),
        ("{} and more", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
    ],
)
async def test_text_that_is_no_json_object_fails(text: str, code: str) -> None:
    given = await answer(completion(text, wanted=JSON_OBJECT))
    assert given.failure is not None
    assert (given.status, given.failure.code) == ("failed", code)
    assert given.failure.field == "response_format.type"
    assert verdict(given, "format").outcome == "failed"


async def test_json_is_held_to_its_schema() -> None:
    wanted = schema('{"type":"object","properties":{"age":{"type":"integer"}},"required":["age"]}')
    sound = await answer(completion('{"age": 7}<|im_end|>', wanted=wanted))
    assert (sound.status, sound.text, sound.response_format) == ("answered", Text(inline='{"age": 7}'), "json_schema")
    assert verdict(sound, "format").outcome == "pass"
    broken = await answer(completion('{"age": "kim@example.com"}', wanted=wanted))
    assert broken.failure is not None
    assert (broken.status, broken.failure.code) == ("failed", "schema_mismatch")
    assert "'type' is broken at properties/age" in broken.failure.message
    assert "kim" not in broken.failure.message


@pytest.mark.parametrize(
    ("wanted", "text", "place"),
    [
        ('{"pattern":"^(a|aa)+$"}', '"' + "a" * 5_000 + '!"', "'pattern' is broken at the root"),
        ('{"patternProperties":{"^(a|aa)+$":false}}', '{"' + "a" * 5_000 + '!":1,"aa":1}', "is broken at"),
        (
            '{"patternProperties":{"^(a|aa)+$":{}},"additionalProperties":false}',
            '{"aa":1,"' + "a" * 5_000 + '!":1}',
            "'additionalProperties' is broken at the root",
        ),
        (
            '{"properties":{"a":{}},"additionalProperties":{"type":"integer"}}',
            '{"a":"x","b":"x"}',
            "'type' is broken at additionalProperties",
        ),
    ],
)
async def test_patterns_are_held_in_linear_time(wanted: str, text: str, place: str) -> None:
    given = await answer(completion(text, wanted=schema(wanted)))
    assert given.failure is not None and given.failure.code == "schema_mismatch"
    assert place in given.failure.message


async def test_properties_by_pattern_are_not_additional() -> None:
    wanted = schema('{"properties":{"n":{}},"patternProperties":{"^x-":{}},"additionalProperties":false}')
    assert (await answer(completion('{"n":1,"x-a":"b"}', wanted=wanted))).status == "answered"


async def test_a_pattern_that_can_not_be_matched_in_linear_time_is_not_matched() -> None:
    given = await answer(completion('"ab"', wanted=schema('{"pattern":"(?=a)ab"}')))
    assert given.failure is not None and given.failure.code == "schema_mismatch"


async def test_the_schema_is_held_against_what_the_model_wrote() -> None:
    """A mask that breaks a pattern is no fault of the model."""
    wanted = schema('{"properties":{"mail":{"pattern":"^[^@]+@[^@]+$"}},"additionalProperties":false}')
    given = await answer(completion('{"mail": "kim@example.com"}', wanted=wanted))
    assert (given.status, given.text) == ("answered", Text(inline='{"mail": "[EMAIL]"}'))


async def test_a_schema_that_can_not_be_applied_fails_and_fetches_nothing() -> None:
    given = await answer(completion("{}", wanted=schema('{"$ref":"https://example.invalid/s.json"}')))
    assert given.failure is not None
    assert given.failure.code == "schema_mismatch"


async def test_verdicts_count_and_place_what_was_found_and_never_repeat_it() -> None:
    raw = "<|im_start|>Mail kim@example.com or lee@example.com, card 4111 1111 1111 1111.<|im_end|>"
    given = await answer(completion(raw))
    assert given.text == Text(inline="Mail [EMAIL] or [EMAIL], card [CARD].")
    found = {v.category: v for v in given.verdicts if v.outcome == "changed"}
    assert {name: v.count for name, v in found.items()} == {"special_token": 2, "email": 2, "card": 1}
    assert [raw[s.start_char : s.end_char] for s in found["email"].spans] == ["kim@example.com", "lee@example.com"]
    assert [raw[s.start_char : s.end_char] for s in found["card"].spans] == ["4111 1111 1111 1111"]
    assert [raw[s.start_char : s.end_char] for s in found["special_token"].spans] == ["<|im_start|>", "<|im_end|>"]
    assert all("kim" not in str(v) and "4111" not in str(v) for v in given.verdicts)


async def test_verdicts_of_a_text_full_of_findings_stay_small() -> None:
    given = await answer(completion("kim@example.com " * 5_000))
    found = next(v for v in given.verdicts if v.category == "email")
    assert (found.count, len(found.spans)) == (5_000, 100)


async def test_marks_become_citations_with_their_place_in_the_answer() -> None:
    given = await answer(grounded("Ask kim@example.com [2]. A log [1, 3]【2】."))
    assert given.text is not None
    text = given.text.inline or ""
    cited = [(c.number, c.passage_id, text[c.start_char : c.end_char]) for c in given.citations]
    assert cited == [(2, "p2", "[2]"), (1, "p1", "[1, 3]"), (3, "p3", "[1, 3]"), (2, "p2", "【2】")]
    first = given.citations[0]
    assert (first.document_id, first.title, first.uri, first.namespace) == (
        "d2",
        "Title 2",
        "https://example.com/2",
        "docs",
    )
    assert (first.digest, first.score) == ("2" * 64, PASSAGES[1].score)


async def test_a_mark_that_names_no_passage_is_no_citation() -> None:
    given = await answer(grounded("A log [1] or not [7] [0]."))
    assert [c.number for c in given.citations] == [1]
    assert (verdict(given, "citations").category, verdict(given, "citations").count) == ("unknown_mark", 2)


async def test_brackets_in_code_are_no_marks() -> None:
    given = await answer(grounded("Use `x[1]`, or:\n```python\nx[2]\n```\nas said [3]."))
    assert [c.number for c in given.citations] == [3]


async def test_arrays_in_json_are_no_marks() -> None:
    given = await answer(grounded('{"a": [1, 2], "b": "as said [3]"}', wanted=JSON_OBJECT))
    assert [c.number for c in given.citations] == [3]


async def test_an_answer_without_marks_cites_what_the_model_was_shown() -> None:
    given = await answer(grounded("A log."))
    assert [(c.number, c.start_char, c.end_char) for c in given.citations] == [
        (1, None, None),
        (2, None, None),
        (3, None, None),
    ]
    assert verdict(given, "citations").category == "no_mark"
    assert (await answer(grounded("A log."), policy=FilterPolicy(cite_shown=False))).citations == ()


async def test_an_answer_without_passages_cites_nothing() -> None:
    assert (await answer(completion("A log."))).citations == ()


async def test_a_late_answer_is_delivered_and_says_so() -> None:
    given = await answer(completion(), late_s=61)
    assert given.status == "answered"
    assert verdict(given, "ttl").category == "late"


async def test_a_late_answer_is_expired_where_the_policy_says_so() -> None:
    given = await answer(completion(), late_s=61, policy=FilterPolicy(late="expire"))
    assert given.failure is not None
    assert (given.status, given.failure.code, given.text) == ("expired", "expired", None)


async def test_tool_calls_are_an_answer_and_are_cleaned_inside() -> None:
    head = r'[{"id":"c1","function":{"name":"mail","arguments":'
    calls = head + r'"{\"to\": \"kim@example.com\", \"card\": 4111111111111111}"}}]'
    given = await answer(completion(None, tool_calls_json=Text(inline=calls), finish_reason="tool_calls"))
    expected = head + r'"{\"to\": \"[EMAIL]\", \"card\": 0}"}}]'
    assert (given.status, given.text, given.tool_calls_json) == ("answered", None, Text(inline=expected))
    assert [v.category for v in given.verdicts if v.outcome == "changed"] == ["email", "card"]


@pytest.mark.parametrize("calls", ["nonsense", "{}"])
async def test_tool_calls_that_are_no_array_fail(calls: str) -> None:
    given = await answer(completion(None, tool_calls_json=Text(inline=calls)))
    assert given.failure is not None
    assert (given.status, given.failure.code) == ("failed", "invalid_json")
