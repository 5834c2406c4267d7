"""Routes with a cascade on the shipped fakes: what is checked, who is asked then, and when a checked reply stands."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from processors.budgets.port import FakeBudgets
from processors.budgets.rule import Budget, parts_of
from processors.complete.cascade import refusal_in
from processors.complete.purse import Guard
from processors.complete.routes import Group
from processors.complete.worst import worst_case
from processors.model.port import ModelReply
from schemas.errors import DependencyDownError, PermanentProviderError, TransientProviderError
from schemas.records import Answer, ResponseFormat, Text
from tests.support.cascading import (
    DECLINED,
    JSON,
    Cascading,
    completion,
    costs,
    crash_after_escalation,
    deployment,
    reply,
    told,
)
from tests.support.completing import KEY, as_bytes, event
from tests.support.enrichments import ACCEPTED


@pytest.mark.parametrize(
    ("cheap", "policy", "check", "code"),
    [
        (DECLINED, {}, "refusal", "phrase"),
        (reply("", refusal="No."), {}, "refusal", "declined"),
        (reply("", finish_reason="content_filter"), {}, "refusal", "withheld"),
        (reply("Lo siento, no puedo."), {"phrases": ("no puedo",)}, "refusal", "phrase"),
        (reply("and so", finish_reason="length"), {}, "format", "cut_off"),
        (reply(" "), {}, "format", "too_short"),
        (reply("two words"), {"least_words": 3}, "format", "too_short"),
        (reply("made up"), {"least_groundedness": 0.6}, "groundedness", "ungrounded"),
    ],
)
async def test_a_reply_that_fails_a_check_is_booked_at_its_cost_and_a_stronger_model_answers(
    cheap: ModelReply, policy: dict[str, Any], check: str, code: str
) -> None:
    bench = Cascading([cheap], **policy)
    bench.scorer.values = {"made up": 0.31}
    outputs = await bench.worker()(event())
    one, (first, second) = completion(outputs), costs(outputs)
    assert bench.went == ["cheap", "strong"]
    assert (one.text, one.deployment) == (Text(inline="the strong one's answer"), "strong")
    assert told(one) == ("escalated", None, [(0, "cheap", "escalated", check, code)])
    assert (first.state, first.error_code, first.amount_usd) == ("failed", f"escalated_{check}", Decimal("0.00011"))
    assert (second.state, second.amount_usd) == ("done", Decimal("0.0011"))
    assert first.usage is not None and not first.estimated
    assert one.cost_usd == Decimal("0.00121") and len(one.attempts) == 2
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(outputs)
    assert bench.went == ["cheap", "strong"]


async def test_a_reply_that_passes_is_the_answer_and_says_its_figure() -> None:
    bench = Cascading([reply("from the passages")], least_groundedness=0.6)
    bench.scorer.values = {"from the passages": 0.72}
    one = completion(await bench.worker()(event()))
    assert bench.went == ["cheap"] and one.cascade is not None
    [step] = one.cascade.steps
    assert (one.cascade.outcome, step.outcome, step.value, step.threshold) == ("kept", "passed", 0.72, 0.6)


async def test_what_is_not_checked_by_the_settings_passes() -> None:
    bench = Cascading([reply("I can't help with that", finish_reason="length")], refusal=False, format=False)
    assert completion(await bench.worker()(event())).deployment == "cheap"


async def test_groundedness_that_can_not_be_told_costs_no_second_call() -> None:
    for failure in (DependencyDownError("embeddings", "away"), TransientProviderError("http_500", "500")):
        bench = Cascading([reply("something")], least_groundedness=0.6)
        bench.scorer.failure = failure
        one = completion(await bench.worker()(event()))
        assert told(one) == ("kept", None, [(0, "cheap", "passed", None, "embeddings_unavailable")])


async def test_a_scorer_that_hangs_is_not_waited_for_beyond_its_time() -> None:
    bench = Cascading([reply("something")], least_groundedness=0.6, check_timeout_s=0.01)

    async def hang(*_: Any) -> Any:
        await asyncio.Event().wait()

    bench.scorer.score = hang  # type: ignore[method-assign]
    one = completion(await bench.worker()(event()))
    assert one.cascade is not None and one.cascade.steps[0].code == "embeddings_unavailable"


async def test_json_that_is_wrong_goes_to_the_stronger_model_instead_of_being_asked_for_again() -> None:
    bench = Cascading([reply("no json at all {{{")], reply('{"a": 1}'))
    one = completion(await bench.worker()(event(response_format=JSON)))
    assert bench.went == ["cheap", "strong"]
    assert told(one) == ("escalated", None, [(0, "cheap", "escalated", "format", "invalid_output")])
    assert one.structured is not None and one.structured.outcome == "valid"
    # As at first: nothing of the wrong reply is quoted.
    assert bench.model.calls[1].payload["messages"] == bench.model.calls[0].payload["messages"]


async def test_the_replies_of_all_but_the_last_step_are_checked() -> None:
    groups = tuple(Group(deployments=(deployment(name),)) for name in ("middle", "strong"))
    bench = Cascading([DECLINED], DECLINED, groups=groups)
    bench.says["middle"] = [DECLINED]
    one = completion(await bench.worker()(event()))
    assert bench.went == ["cheap", "middle", "strong"]
    assert one.text == Text(inline=DECLINED.text or "") and one.deployment == "strong"


@pytest.mark.parametrize(
    "error", [TransientProviderError("http_503", "503"), PermanentProviderError("http_400", "400")]
)
async def test_the_checked_reply_stands_when_no_stronger_model_answers(error: Exception) -> None:
    bench = Cascading([DECLINED], error)
    outputs = await bench.worker()(event())
    one = completion(outputs)
    assert bench.went == ["cheap", "strong"]
    assert (one.text, one.deployment, one.model) == (Text(inline=DECLINED.text or ""), "cheap", "model-cheap")
    assert told(one) == ("stood", "unavailable", [(0, "cheap", "escalated", "refusal", "phrase")])
    assert one.usage is not None and one.usage.prompt_tokens == 100
    assert sum(cost.amount_usd for cost in costs(outputs)) == one.cost_usd == Decimal("0.00011")
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(outputs)


@pytest.mark.parametrize(("response_format", "stands"), [(ResponseFormat(), True), (JSON, False)])
async def test_the_checked_reply_stands_when_every_stronger_place_is_taken_to_the_end(
    response_format: ResponseFormat, stands: bool
) -> None:
    group = Group(deployments=(deployment("strong", "10", max_concurrency=1),))
    bench = Cascading([DECLINED], groups=(group,))
    worker = bench.worker()
    taken, find = worker._places.at_once(group, event().record), worker._places.find
    assert taken is not None

    async def soon(*asked: Any, latest: float, **more: Any) -> Any:
        return await find(*asked, latest=min(latest, time.monotonic() + 0.1), **more)

    worker._places.find = soon
    if not stands:
        with pytest.raises(DependencyDownError):
            await worker(event(response_format=response_format))
        return
    outputs = await worker(event(response_format=response_format))
    one = completion(outputs)
    assert (bench.went, one.text, one.deployment) == (["cheap"], Text(inline=DECLINED.text or ""), "cheap")
    assert told(one) == ("stood", "unavailable", [(0, "cheap", "escalated", "refusal", "phrase")])
    assert [cost.amount_usd for cost in costs(outputs)] == [Decimal("0.00011"), 0]
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(outputs) and bench.went == ["cheap"]


async def test_json_that_is_wrong_does_not_stand() -> None:
    bench = Cascading([reply("no json at all {{{")], TransientProviderError("http_503", "503"))
    *_, answer = await bench.worker()(event(response_format=JSON))
    assert (answer.status, answer.failure.code) == ("failed", "http_503")


async def test_without_the_time_for_a_stronger_call_the_reply_stands_and_says_so() -> None:
    bench = Cascading([DECLINED], least_time_s=1_000.0)
    one = completion(await bench.worker()(event()))
    assert bench.went == ["cheap"] and one.text == Text(inline=DECLINED.text or "")
    assert told(one) == ("stood", "time", [(0, "cheap", "stood", "refusal", "phrase")])


async def test_wrong_json_is_asked_for_again_where_there_is_no_time_for_a_stronger_model() -> None:
    bench = Cascading([reply("no json at all {{{"), reply('{"a": 1}')], least_time_s=1_000.0)
    one = completion(await bench.worker()(event(response_format=JSON)))
    assert bench.went == ["cheap", "cheap"] and one.text == Text(inline='{"a": 1}')
    steps = [(0, "cheap", "stood", "format", "invalid_output"), (1, "cheap", "passed", None, None)]
    assert told(one) == ("kept", None, steps)


@pytest.mark.parametrize(("hard", "went"), [("1.01", ["cheap", "strong"]), ("0.5", ["cheap"])])
async def test_a_budget_holds_both_calls_or_the_reply_of_the_first_stands(hard: str, went: list[str]) -> None:
    bench = Cascading([DECLINED])
    worst = worst_case(event().record, bench.route, at=ACCEPTED)
    alone = worst_case(event().record, replace(bench.route, cascade=None), at=ACCEPTED)
    assert worst >= alone + worst_case(event().record, replace(bench.route, deployment=bench.strong), at=ACCEPTED) / 4
    budget = Budget(name="acme", period="day", only={"tenant": "acme"}, hard_usd=worst * Decimal(hard))
    guard = Guard(FakeBudgets(bench.clock), (budget,), clock=bench.clock, hold_s=150)
    one = completion(await bench.worker(guard=guard)(event()))
    assert bench.went == went and one.cascade is not None
    assert one.cascade.reason == (None if len(went) == 2 else "budget")


async def test_after_a_crash_an_escalated_reply_is_not_bought_again() -> None:
    bench = Cascading([DECLINED])
    await crash_after_escalation(bench)
    one = completion(await bench.worker("w2")(event()))
    assert bench.went == ["cheap", "strong"] and one.deployment == "strong"
    assert told(one) == ("escalated", None, [(0, "cheap", "escalated", "refusal", "phrase")])
    assert [row.error_code for row in await bench.journal.attempts_of(KEY)] == ["escalated_refusal", None]


async def test_who_waits_for_a_place_meanwhile_does_not_buy_an_escalated_reply_again() -> None:
    bench = Cascading([DECLINED])
    waiting, place = asyncio.Event(), asyncio.Event()
    second = bench.worker("w2")
    find = second._places.find

    async def late(*asked: Any, **more: Any) -> Any:
        waiting.set()
        await place.wait()
        return await find(*asked, **more)

    second._places.find = late
    bench.model.hold = asyncio.Event()
    first = asyncio.create_task(crash_after_escalation(bench))
    while not bench.model.calls:
        await asyncio.sleep(0)
    other = asyncio.create_task(second(event()))
    await waiting.wait()
    bench.model.hold.set()
    await first
    place.set()
    assert completion(await other).deployment == "strong" and bench.went == ["cheap", "strong"]


@pytest.mark.parametrize(("freed", "went"), [(False, ["cheap"]), (True, ["cheap", "strong"])])
async def test_what_was_held_for_the_first_model_alone_is_no_money_for_a_stronger_one(
    freed: bool, went: list[str]
) -> None:
    bench = Cascading([DECLINED])
    worst = worst_case(event().record, bench.route, at=ACCEPTED)
    alone = worst_case(event().record, replace(bench.route, cascade=None), at=ACCEPTED)
    budgets = FakeBudgets(bench.clock)
    budget = Budget(name="acme", period="day", only={"tenant": "acme"}, hard_usd=worst)
    guard = Guard(budgets, (budget,), clock=bench.clock, hold_s=150)
    await budgets.reserve("another", parts_of([budget], {"tenant": "acme"}), worst / 2, hold_s=150)
    await budgets.settle("another", worst / 2)
    claim = bench.journal.claim

    async def away(*_: Any, **__: Any) -> Any:
        raise DependencyDownError("postgres", "away")

    bench.journal.claim = away  # type: ignore[method-assign]
    with pytest.raises(DependencyDownError):
        await bench.worker(guard=guard)(event())
    bench.journal.claim = claim  # type: ignore[method-assign]
    [standing] = budgets.standings.values()
    assert standing.reserved == alone
    if freed:
        await budgets.settle("another", Decimal(0))
    one = completion(await bench.worker("w2", guard=guard)(event()))
    assert bench.went == went and one.cascade is not None
    assert one.cascade.reason == (None if freed else "budget")
    [standing] = budgets.standings.values()
    assert standing.reserved == 0 and standing.spent + standing.reserved <= worst


@pytest.mark.parametrize("response_format", [ResponseFormat(), JSON])
async def test_after_a_crash_no_stronger_model_is_asked_with_money_for_the_first_one_alone(
    response_format: ResponseFormat,
) -> None:
    """The kept reply stands; JSON that was wrong does not."""
    bench = Cascading([DECLINED if response_format.type == "text" else reply("no json at all {{{")])
    asked = event(response_format=response_format)
    worst = worst_case(asked.record, bench.route, at=ACCEPTED)
    alone = worst_case(asked.record, replace(bench.route, cascade=None), at=ACCEPTED)
    budgets = FakeBudgets(bench.clock)
    budget = Budget(name="acme", period="day", only={"tenant": "acme"}, hard_usd=worst)
    guard = Guard(budgets, (budget,), clock=bench.clock, hold_s=150)
    await crash_after_escalation(bench, asked, guard=guard)
    # Swept; then others spent all but what the first model's call may cost.
    await budgets.settle(KEY.call_id, Decimal("0.00011"))
    [(key, standing)] = budgets.standings.items()
    budgets.standings[key] = replace(standing, spent=worst - alone)
    outputs = await bench.worker("w2", guard=guard)(asked)
    assert bench.went == ["cheap"]
    first, *more = [(cost.error_code, cost.amount_usd) for cost in costs(outputs)]
    if response_format.type == "text":
        one = completion(outputs)
        assert told(one) == ("stood", "budget", [(0, "cheap", "escalated", "refusal", "phrase")])
        assert (one.text, one.deployment) == (Text(inline=DECLINED.text or ""), "cheap")
        assert (first, more) == (("escalated_refusal", Decimal("0.00011")), [("budget_exceeded", 0)])
    else:
        answer = outputs[-1]
        assert isinstance(answer, Answer) and answer.failure is not None and answer.failure.code == "budget_exceeded"
        assert (first, more) == (("escalated_format", Decimal("0.00011")), [])
    [standing] = budgets.standings.values()
    assert standing.reserved == 0


async def test_a_cascade_is_written_as_a_whole_whatever_the_request_wants() -> None:
    bench = Cascading([DECLINED])
    one = completion(await bench.worker()(event(stream=True)))
    assert not one.streamed and not bench.sink.sent


@pytest.mark.parametrize(
    "text", ["I don't know.", "I\u2019m not able to say that.", "As an AI, I have none.", "I DO NOT KNOW"]
)
def test_a_refusal_is_known_by_how_it_begins(text: str) -> None:
    assert refusal_in(reply(text)) == "phrase"


@pytest.mark.parametrize("text", ["Kafka keeps offsets.", "A" * 300 + " I don't know", ""])
def test_what_only_mentions_a_refusal_later_is_none(text: str) -> None:
    assert refusal_in(reply(text)) is None
