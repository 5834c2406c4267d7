"""Replies that have to be JSON: checked, repaired, asked for once more, given up; on the shipped fakes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest

from processors.complete.processor import Complete
from processors.complete.routes import Deployment, Group
from processors.event import Recorded
from processors.filter.json_text import clean_json
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from processors.model.port import ModelReply
from processors.structured.asking import ask_again
from processors.structured.check import Fault, fault_of
from processors.structured.repair import MAX_CHARS, UnrepairableError, repaired
from schemas.errors import TransientProviderError
from schemas.records import Answer, Completion, Cost, ResponseFormat, Text
from streams.deployed import routes
from tests.support.completing import CODEC, Bench, as_bytes, event
from tests.support.enrichments import incoming
from tests.support.settings import bare_settings

SCHEMA = '{"type":"object","properties":{"age":{"type":"integer"}},"required":["age"],"additionalProperties":false}'
PEOPLE = ResponseFormat(type="json_schema", schema_json=Text(inline=SCHEMA))
OBJECT = ResponseFormat(type="json_object")
GOOD = '{"age": 7}'
SECRET = "canary-4711"


def reply(text: str | None, **changes: Any) -> ModelReply:
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    made = ModelReply(text=text, finish_reason="stop", model="m1", usage=usage, duration_ms=1.0)
    return replace(made, **changes)


def scripted(*replies: str | ModelReply | None, **route: Any) -> Bench:
    bench = Bench(**route)
    left = [one if isinstance(one, ModelReply) else reply(one) for one in replies]
    bench.model.script = lambda _: left.pop(0)
    return bench


async def outputs(bench: Bench, wanted: ResponseFormat = PEOPLE, worker: Complete | None = None) -> Sequence[Any]:
    return await (worker or bench.worker())(event(response_format=wanted))


async def completed(bench: Bench, wanted: ResponseFormat = PEOPLE) -> Completion:
    last = (await outputs(bench, wanted))[-1]
    assert isinstance(last, Recorded) and isinstance(last.record, Completion)
    return last.record


def steps(completion: Completion) -> list[tuple[int, str, str | None]]:
    assert completion.structured is not None
    return [(step.attempt, step.outcome, step.code) for step in completion.structured.steps]


def text_of(completion: Completion) -> str:
    assert completion.text is not None and completion.text.inline is not None
    return completion.text.inline


async def test_what_is_valid_goes_on_as_the_model_wrote_it() -> None:
    completion = await completed(scripted(' {"age":\t7 }<|im_end|>'))
    assert text_of(completion) == ' {"age":\t7 }<|im_end|>'
    assert completion.structured is not None and completion.structured.outcome == "valid"
    assert steps(completion) == [(0, "valid", None)]


@pytest.mark.parametrize(
    "wrote",
    [
        '```json\n{"age": 7}\n```',
        'Sure! Here it is:\n```\n{"age": 7}\n```\nAnything else?',
        "{'age': 7,}",
        '{"age": 7',
        '<think>Perhaps {"age": 9}?</think>\n{age: 7}',
        '{"age": 7} // years',
    ],
)
async def test_what_is_almost_right_is_repaired_without_a_second_call(wrote: str) -> None:
    bench = scripted(wrote)
    completion = await completed(bench)
    assert orjson.loads(text_of(completion)) == {"age": 7}
    assert steps(completion) == [(0, "repaired", "invalid_json")]
    assert len(bench.model.calls) == 1 and completion.attempts[0].state == "done"


async def test_a_route_may_do_without_repairs() -> None:
    completion = await completed(scripted("{'age': 7}", GOOD, repair=False))
    assert steps(completion) == [(0, "wrong", "invalid_json"), (1, "valid", None)]


async def test_what_breaks_the_schema_is_asked_for_again_with_what_was_wrong() -> None:
    bench = scripted('{"age": "seven"}', GOOD)
    completion = await completed(bench)

    assert text_of(completion) == GOOD
    assert steps(completion) == [(0, "wrong", "schema_mismatch"), (1, "valid", None)]
    first, second = (call.payload for call in bench.model.calls)
    *before, wrote, told = second["messages"]
    assert {**second, "messages": before} == first
    assert wrote == {"role": "assistant", "content": '{"age": "seven"}'}
    assert told["role"] == "user"
    assert "at /age" in told["content"] and '{"type":"integer"}' in told["content"]
    assert [attempt.error_code for attempt in completion.attempts] == ["invalid_output", None]
    assert completion.cost_usd == Decimal("0.0009")


async def test_every_reply_is_paid_and_has_its_cost_event() -> None:
    *costs, _ = await outputs(scripted("no", GOOD))
    assert [type(cost) for cost in costs] == [Cost, Cost]
    assert [(c.state, c.amount_usd, c.usage.prompt_tokens) for c in costs] == [
        ("failed", Decimal("0.00045"), 100),
        ("done", Decimal("0.00045"), 100),
    ]


async def test_json_of_the_wrong_form_is_told_so_though_it_was_broken_too() -> None:
    bench = scripted('{"years": 7,}', GOOD)
    completion = await completed(bench)
    assert steps(completion)[0] == (0, "wrong", "schema_mismatch")
    assert "years" in bench.model.calls[1].payload["messages"][-1]["content"]


@pytest.mark.parametrize(("repeats", "calls"), [(0, 1), (1, 2), (3, 4)])
async def test_in_the_end_the_request_fails_and_says_where_and_why(repeats: int, calls: int) -> None:
    wrong = f'{{"age": "{SECRET}", "{SECRET}": 1}}'
    bench = scripted(*[wrong] * calls, repair_attempts=repeats)
    *costs, answer = await outputs(bench)

    assert isinstance(answer, Answer) and answer.failure is not None
    assert (answer.status, answer.failure.code, answer.failure.error_class) == ("failed", "invalid_output", "permanent")
    assert answer.failure.message.startswith("response_format.schema_json: the rule '")
    assert f"{calls} repl" in answer.failure.message
    assert SECRET.encode() not in CODEC.encode(answer)
    assert len(costs) == len(answer.attempts) == len(bench.model.calls) == calls
    assert {attempt.error_code for attempt in answer.attempts} == {"invalid_output"}


async def test_no_json_at_all_fails_with_the_place() -> None:
    *_, answer = await outputs(scripted("I am sorry.", "I am sorry."), OBJECT)
    assert answer.failure.message == (
        "response_format.type: the model's text is no JSON (line 1, column 1); 2 replies of the model can't be used"
    )


@pytest.mark.parametrize("wrote", ["", None, "[1]", '"text"', "7", "null", "{", "the empty set {}", '{"a": NaN}'])
async def test_an_object_is_nothing_less(wrote: str | None) -> None:
    completion = await completed(scripted(wrote, '{"b": 1}'), OBJECT)
    assert [step[:2] for step in steps(completion)] == [(0, "wrong"), (1, "valid")]


async def test_an_empty_object_is_one() -> None:
    assert text_of(await completed(scripted("{}"), OBJECT)) == "{}"


@pytest.mark.parametrize(
    "cut",
    [
        reply('{"age": ', finish_reason="length"),
        reply("", finish_reason="content_filter"),
        reply(None, refusal="I won't."),
        reply(None, tool_calls_json='[{"id":"c1"}]', finish_reason="tool_calls"),
    ],
    ids=["cut off", "held back", "declined", "calls tools"],
)
async def test_what_the_filter_has_to_say_is_not_judged(cut: ModelReply) -> None:
    bench = scripted(cut)
    completion = await completed(bench)
    assert completion.structured is None and len(bench.model.calls) == 1
    assert (completion.text and completion.text.inline) == cut.text


async def test_text_is_not_judged() -> None:
    completion = await completed(scripted("{'age': 7"), ResponseFormat())
    assert text_of(completion) == "{'age': 7" and completion.structured is None


async def test_a_schema_that_can_not_be_applied_is_not_paid_for_twice() -> None:
    wanted = ResponseFormat(type="json_schema", schema_json=Text(inline='{"$ref": "http://127.0.0.1:9/s.json"}'))
    bench = scripted(GOOD)
    *_, answer = await outputs(bench, wanted)
    assert answer.failure.code == "invalid_output" and "could not be applied" in answer.failure.message
    assert len(bench.model.calls) == 1


async def test_a_redelivery_gives_the_same_bytes_and_buys_nothing() -> None:
    bench = scripted("no", GOOD)
    first = as_bytes(await outputs(bench, worker=bench.worker("w1")))
    again = as_bytes(await outputs(bench, worker=bench.worker("w2")))
    assert first == again and len(bench.model.calls) == 2


async def with_a_lost_worker(*replies: str) -> Bench:
    """The worker got the first reply, which is wrong, and is lost while it asks again."""
    bench = scripted(*replies)
    hold = bench.model.hold = asyncio.Event()
    hold.set()
    judged = bench.model.script

    def then_hang(call: Any) -> ModelReply | Exception:
        hold.clear()
        assert judged is not None
        return judged(call)

    bench.model.script = then_hang
    lost = asyncio.create_task(outputs(bench, worker=bench.worker("w1")))
    while len(bench.model.calls) < 2:
        await asyncio.sleep(0)
    lost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lost
    bench.clock.advance(60.0)
    hold.set()
    return bench


async def test_what_a_lost_worker_found_wrong_is_in_the_steps() -> None:
    bench = await with_a_lost_worker("no", GOOD)
    completion = await completed(bench)
    assert steps(completion) == [(0, "wrong", "invalid_output"), (2, "valid", None)]
    assert [attempt.error_code for attempt in completion.attempts] == ["invalid_output", "worker_lost", None]
    assert bench.model.calls[2].payload == bench.model.calls[0].payload


async def test_what_a_lost_worker_asked_again_is_not_asked_once_more() -> None:
    bench = await with_a_lost_worker("no", "no")
    *_, answer = await outputs(bench)
    assert answer.failure.code == "invalid_output" and "2 replies" in answer.failure.message
    assert len(bench.model.calls) == 3


@pytest.mark.parametrize(
    ("replies", "outcome", "count", "detail"),
    [
        ([GOOD], "pass", 0, None),
        (["{'age': 7}"], "changed", 0, "repaired"),
        (["no", GOOD], "pass", 1, "after 1 that did not have it"),
        (["no", "{'age': 7}"], "changed", 1, "repaired, after 1 that did not have it"),
    ],
)
async def test_the_answer_says_what_it_took(replies: list[str], outcome: str, count: int, detail: str | None) -> None:
    bench = scripted(*replies)
    last = (await outputs(bench))[-1]
    guard = Filter(policy=FilterPolicy(), clock=bench.clock)
    *_, answer = await guard(incoming(last.record, CODEC))
    assert isinstance(answer, Answer) and answer.status == "answered"
    assert answer.text is not None and orjson.loads(answer.text.inline or "") == {"age": 7}
    [verdict] = [one for one in answer.verdicts if one.guard == "format"]
    assert (verdict.outcome, verdict.count, verdict.detail) == (outcome, count, detail)


def test_settings_say_how_often_a_route_asks_again() -> None:
    deployments = {"d1": {"base_url": "http://x/v1", "model": "m1"}}
    plain, own = (
        routes(bare_settings(deployments=deployments, routes={"default": {"deployment": "d1", **more}}))["default"]
        for more in ({}, {"repair_attempts": 3, "repair": False})
    )
    assert (plain.repair_attempts, plain.repair) == (1, True)
    assert (own.repair_attempts, own.repair) == (3, False)


def other(name: str) -> Group:
    return Group(deployments=(Deployment(name=name, base_url=f"http://{name}/v1", model=f"model of {name}"),))


async def test_a_fallback_that_writes_wrong_is_asked_again_itself_by_its_own_model() -> None:
    bench = Bench(fallbacks={"outage": (other("d2"),)}, max_attempts=1)
    left = [TransientProviderError("http_503", "503", http_status=503), reply('{"age": "seven"}'), reply(GOOD)]
    bench.model.script = lambda _: left.pop(0)
    completion = await completed(bench)
    assert text_of(completion) == GOOD and completion.deployment == "d2"
    sent = [(call.deployment, call.payload["model"], len(call.payload["messages"])) for call in bench.model.calls]
    assert sent == [("d1", "m1", 1), ("d2", "model of d2", 1), ("d2", "model of d2", 3)]


async def test_when_repeats_are_used_up_a_fallback_for_wrong_output_is_asked_as_at_first() -> None:
    bench = Bench(fallbacks={"outage": (other("d2"),), "malformed_output": (other("d3"),)}, max_attempts=1)
    left = [TransientProviderError("http_503", "503", http_status=503), reply("no"), reply("no"), reply(GOOD)]
    bench.model.script = lambda _: left.pop(0)
    completion = await completed(bench)
    assert completion.deployment == "d3" and steps(completion)[-1] == (3, "valid", None)
    *_, last = bench.model.calls
    assert last.payload["model"] == "model of d3"
    assert last.payload["messages"] == bench.model.calls[0].payload["messages"]


FAULT = Fault(code="invalid_json", field="f", detail="d", told="It is no JSON object.")


def test_a_reply_that_does_not_fit_is_left_out_of_the_question() -> None:
    first = {"messages": [{"role": "user", "content": "hi"}], "seed": 1}
    fits = ask_again(first, "x" * 100, FAULT, room_tokens=1_000)
    wide = ask_again(first, "x" * 4_000, FAULT, room_tokens=1_000)
    assert fits["messages"][1]["content"] == "x" * 100
    assert [m["role"] for m in wide["messages"]] == ["user", "assistant", "user"]
    assert "x" not in wide["messages"][1]["content"].replace("x)", "")
    assert wide["seed"] == 1 and first["messages"] == [{"role": "user", "content": "hi"}]


def test_what_the_model_is_told_is_bounded() -> None:
    fault = fault_of(orjson.dumps({"age": 1, **{f"k{n}" * 50: "v" * 9_000 for n in range(500)}}).decode(), PEOPLE)
    assert fault is not None and len(fault.told) < 5_000
    assert fault.detail == "response_format.schema_json: the rule 'additionalProperties' is broken at the root"


def test_a_text_too_long_for_a_repair_is_none() -> None:
    with pytest.raises(UnrepairableError):
        repaired('{"a": 1,' + " " * MAX_CHARS)


DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {}}


def by(schema: dict[str, Any]) -> ResponseFormat:
    return ResponseFormat(type="json_schema", schema_json=Text(inline=orjson.dumps(schema).decode()))


async def test_a_schema_that_would_never_end_ends_and_is_not_paid_for_twice() -> None:
    bench = scripted(GOOD)
    *_, answer = await outputs(bench, by({"$ref": "#/$defs/d0", "$defs": DOUBLING}))
    assert answer.failure.code == "invalid_output" and "too many steps" in answer.failure.message
    assert len(bench.model.calls) == 1


def test_a_long_text_is_checked_all_the_same() -> None:
    items = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}
    many = orjson.dumps([{"a": 1, "b": "x"}] * 20_000).decode()
    assert fault_of(many, by({"items": items})) is None


@pytest.mark.parametrize(
    ("items", "unique"),
    [
        ([1, "a", [1], {"a": 1}, True, None, 0, False], True),
        ([1, "a", 1.0], False),
        ([{"a": 1, "b": [2.0]}, {"b": [2], "a": 1.0}], False),
        ([2**53, 2**53 + 1], True),
        ([0.5, 0.25], True),
    ],
)
def test_items_are_equal_as_json_has_it(items: list[Any], unique: bool) -> None:
    fault = fault_of(orjson.dumps(items).decode(), by({"uniqueItems": True}))
    assert (fault is None) == unique


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_text_nested_too_deep_is_a_fault_and_no_crash(opening: str) -> None:
    deep = opening * 5_000
    fault = fault_of(deep, OBJECT)
    assert fault is not None and fault.code == "invalid_json"
    with pytest.raises(UnrepairableError):
        repaired(deep)


def test_a_repaired_text_survives_the_filter_as_json() -> None:
    text, value = repaired("{'mail': 'ada@example.org', 'age': 7,}")
    assert value == {"mail": "ada@example.org", "age": 7}
    cleaned = orjson.loads(clean_json(text, ("GB",)).text)
    assert cleaned["age"] == 7 and "ada@" not in cleaned["mail"]
