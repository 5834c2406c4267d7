"""Routes with a fan-out on the shipped fakes: the calls, what is made of them, crashes, failures, budgets."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from processors.budgets.port import FakeBudgets
from processors.budgets.rule import Budget
from processors.complete.purse import Guard
from processors.complete.tasks import sample_key
from processors.complete.worst import worst_case
from processors.control import FakeControl
from processors.journal import Lease
from processors.routing import Unavailable
from schemas.errors import (
    DependencyDownError,
    IndeterminateError,
    NotYetError,
    OutcomeUnknownError,
    PermanentProviderError,
    RefusedError,
    TransientProviderError,
)
from schemas.records import Answer, Sampling, Text
from tests.support.cascading import completion, deployment, reply
from tests.support.completing import CODEC, KEY, as_bytes, event, streaming
from tests.support.enrichments import ACCEPTED, incoming
from tests.support.fanning import Fanned, costs, texts

BAD = PermanentProviderError("http_400", "400")


async def test_the_answer_that_most_agree_on_is_given_with_every_call_booked() -> None:
    bench = Fanned(texts("Lyon", "Paris.", "paris [1]"))
    outputs = await bench.worker()(event())
    one = completion(outputs)
    assert one.text == Text(inline="Paris.") and one.fan_out is not None
    assert (one.fan_out.chosen, one.fan_out.agreement, one.fan_out.answered) == (1, pytest.approx(2 / 3), 3)
    assert [sample.group for sample in one.fan_out.samples] == [0, 1, 1]
    assert [sample.used for sample in one.fan_out.samples] == [False, True, False]
    booked = costs(outputs)
    assert [(cost.purpose, cost.amount_usd) for cost in booked] == [("sample", Decimal("0.00011"))] * 3
    assert len({cost.attempt_id for cost in booked}) == 3
    assert one.cost_usd == Decimal("0.00033") and one.usage is not None and one.usage.prompt_tokens == 300
    assert [attempt.purpose for attempt in one.attempts] == ["sample"] * 3
    assert {cost.attempt_id for cost in booked} == {attempt.attempt_id for attempt in one.attempts}
    assert await bench.journal.attempts_of(KEY) == ()


async def test_no_sample_s_text_goes_out_while_it_is_written() -> None:
    bench = Fanned(texts("Paris. " * 200, "Paris. " * 200, "Lyon. " * 200))
    one = completion(await bench.worker()(streaming()))
    assert bench.sink.sent == [] and not one.streamed


async def test_a_redelivery_gives_the_same_bytes_and_buys_nothing() -> None:
    bench = Fanned(texts("a", "b", "a"))
    first = await bench.worker()(event())
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(first)
    assert len(bench.model.calls) == 3


async def test_what_was_paid_is_given_out_after_the_fan_out_or_the_route_left_the_settings() -> None:
    bench = Fanned(texts("a", "b", "a"))
    first = await bench.worker()(event())
    plain = replace(bench.route, fan_out=None)
    assert as_bytes(await bench.worker("w2", routes={"default": plain})(event())) == as_bytes(first)
    assert as_bytes(await bench.worker("w3", routes={"other": plain})(event())) == as_bytes(first)


async def test_more_samples_in_the_settings_buy_nothing_for_what_was_answered_before() -> None:
    bench = Fanned(texts("a", "b", "a"))
    first = await bench.worker()(event())
    assert bench.route.fan_out is not None
    bench.route = replace(bench.route, fan_out=replace(bench.route.fan_out, samples=5))
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(first) and len(bench.model.calls) == 3


async def test_samples_are_asked_at_once_and_one_after_another_where_there_is_one_seat() -> None:
    for seats, most in ((4, 3), (1, 1)):
        bench = Fanned(texts("a", "a", "a"))
        bench.route = replace(bench.route, deployment=deployment("one", max_concurrency=seats))
        bench.model.hold = asyncio.Event()
        task = asyncio.create_task(bench.worker()(event()))
        while len(bench.model.calls) < most:
            await asyncio.sleep(0)
        bench.model.hold.set()
        assert completion(await task).fan_out is not None
        assert (bench.model.most_running, len(bench.model.calls)) == (most, 3)


async def test_one_call_at_each_of_several_models() -> None:
    bench = Fanned({"a": texts("x"), "b": texts("y"), "c": texts("y")})
    one = completion(await bench.worker()(event()))
    assert sorted(bench.went) == ["a", "b", "c"] and one.fan_out is not None
    assert (one.text, one.deployment, one.model) == (Text(inline="y"), "b", "model-b")
    assert [sample.deployment for sample in one.fan_out.samples] == ["a", "b", "c"]


async def test_a_request_for_one_of_the_models_asks_that_one() -> None:
    bench = Fanned({"a": texts("x"), "b": texts("y")})
    await bench.worker()(event(model="model-b"))
    assert bench.went == ["b"]


async def test_a_seed_is_another_one_for_each_sample() -> None:
    bench = Fanned(texts("a", "a", "a"))
    one = completion(await bench.worker()(event(sampling=Sampling(seed=7))))
    assert sorted(call.payload["seed"] for call in bench.model.calls) == [7, 8, 9]
    assert one.request.sampling.seed == 7


async def test_one_sample_that_fails_leaves_the_others_be() -> None:
    bench = Fanned({"a": [BAD], "b": texts("y"), "c": texts("z")}, needed=2)
    outputs = await bench.worker()(event())
    one = completion(outputs)
    assert one.text == Text(inline="y") and one.fan_out is not None
    assert [(sample.outcome, sample.code) for sample in one.fan_out.samples] == [
        ("failed", "http_400"),
        ("answered", None),
        ("answered", None),
    ]
    assert len(costs(outputs)) == 3


async def test_too_few_answers_fail_with_the_first_reason_and_every_call_is_booked() -> None:
    bench = Fanned({"a": texts("x"), "b": [BAD], "c": [TransientProviderError("http_503", "503")]}, needed=2)
    outputs = await bench.worker()(event())
    answer = outputs[-1]
    assert isinstance(answer, Answer) and answer.failure is not None
    assert (answer.status, answer.failure.code) == ("failed", "http_400")
    assert sum(cost.amount_usd for cost in costs(outputs)) == answer.cost_usd == Decimal("0.00011")
    assert [attempt.purpose for attempt in answer.attempts] == ["sample"] * 3 + ["completion"]
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(outputs)
    assert len(bench.model.calls) == 3


async def test_the_last_resort_answers_in_place_of_too_few() -> None:
    bench = Fanned({"a": texts("x"), "b": [BAD]}, needed=2, route={"last_resort": "Sorry."})
    outputs = await bench.worker()(event())
    one = completion(outputs)
    assert (one.text, one.served_by, one.cost_usd) == (Text(inline="Sorry."), "template", Decimal("0.00011"))
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(outputs)


async def test_the_last_resort_answers_while_every_sample_would_have_to_wait() -> None:
    bench = Fanned([BAD], samples=2, route={"last_resort": "Sorry."})
    worker = bench.worker()

    async def find(*_: Any, **__: Any) -> Any:
        return Unavailable(60.0, "outage", "one")

    worker._places.find = find
    outputs = await worker(event())
    one = completion(outputs)
    assert (one.text, one.served_by, one.cost_usd) == (Text(inline="Sorry."), "template", Decimal(0))
    assert not bench.model.calls and one.fan_out is not None
    assert [sample.code for sample in one.fan_out.samples] == ["deployment_unavailable"] * 2
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(outputs) and not bench.model.calls


async def test_no_last_resort_answers_what_nobody_pays_for_or_wants() -> None:
    bench = Fanned([BAD], samples=2, route={"last_resort": "Sorry."})
    budget = Budget(name="acme", period="day", only={"tenant": "acme"}, hard_usd=Decimal("0.000001"))
    guard = Guard(FakeBudgets(bench.clock), (budget,), clock=bench.clock, hold_s=150)
    worker = bench.worker(guard=guard)

    async def find(*_: Any, **__: Any) -> Any:
        return Unavailable(60.0, "outage", "one")

    worker._places.find = find
    with pytest.raises(RefusedError) as refused:
        await worker(event())
    assert refused.value.code == "budget_exceeded" and not bench.journal.calls


async def test_samples_have_retries_of_their_own() -> None:
    bench = Fanned([TransientProviderError("http_503", "503"), reply("a")], samples=2, route={"max_attempts": 3})
    outputs = await bench.worker()(event())
    assert len(bench.model.calls) == 3 and len(costs(outputs)) == 3
    assert completion(outputs).fan_out is not None


async def test_after_a_crash_only_the_open_samples_are_paid_again() -> None:
    bench = Fanned({"a": texts("x"), "b": texts("y"), "c": texts("y")}, route={"max_attempts": 3})
    held = asyncio.Event()
    finish = bench.journal.finish

    async def hang(lease: Lease, *rest: Any, **more: Any) -> Any:
        if lease.key.ordinal == 2 and not held.is_set():
            held.set()
            await asyncio.Event().wait()
        return await finish(lease, *rest, **more)

    bench.journal.finish = hang  # type: ignore[method-assign]
    task = asyncio.create_task(bench.worker()(event()))
    await held.wait()
    while None in [await bench.journal.outcome_of(sample_key(KEY, number)) for number in (0, 1)]:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    bench.clock.advance(16)
    outputs = await bench.worker("w2")(event())
    assert completion(outputs).text == Text(inline="y") and bench.went == ["a", "b", "c", "c"]
    assert [cost.state for cost in costs(outputs)] == ["done", "done", "unknown", "done"]


async def test_two_workers_with_the_same_request_pay_for_it_once() -> None:
    bench = Fanned(texts("a", "b", "b"))
    first, second = await asyncio.gather(bench.worker("w1")(event()), bench.worker("w2")(event()))
    assert as_bytes(first) == as_bytes(second) and len(bench.model.calls) == 3


async def test_a_request_that_is_cancelled_ends_all_of_its_calls() -> None:
    bench = Fanned(texts("a", "b", "c"))
    bench.model.hold = asyncio.Event()
    task = asyncio.create_task(bench.worker()(event()))
    while len(bench.model.calls) < 3:
        await asyncio.sleep(0)
    assert isinstance(bench.control, FakeControl)
    bench.control.cancel("acme", "r1")
    *booked, answer = await task
    assert isinstance(answer, Answer) and answer.failure is not None and answer.failure.code == "cancelled"
    assert bench.model.cancelled == 3 and [cost.state for cost in costs(booked)][:3] == ["unknown"] * 3


async def test_what_was_cancelled_or_expired_before_any_call_is_refused_and_costs_nothing() -> None:
    bench = Fanned(texts("a", "b"))
    bench.clock.advance(301)
    with pytest.raises(RefusedError) as refused:
        await bench.worker()(event())
    assert refused.value.status == "expired" and not bench.model.calls and not bench.journal.calls


async def test_an_outcome_that_may_not_be_repeated_dead_letters_with_all_costs() -> None:
    bench = Fanned(
        {"a": texts("x"), "b": [OutcomeUnknownError("cut_off", "cut off")]}, needed=2, route={"unknown_policy": "fail"}
    )
    with pytest.raises(IndeterminateError) as caught:
        await bench.worker()(event())
    assert [cost.state for cost in costs(caught.value.outputs)] == ["done", "unknown", "failed"]


async def test_a_dependency_that_is_away_is_waited_for_and_what_ended_is_not_made_again() -> None:
    bench = Fanned({"a": texts("x"), "b": texts("x")})
    finish, failures = bench.journal.finish, [DependencyDownError("postgres", "away")]

    async def away(*asked: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return await finish(*asked, **more)

    bench.journal.finish = away  # type: ignore[method-assign]
    worker = bench.worker()
    with pytest.raises(DependencyDownError):
        await worker(event())
    assert completion(await worker(event())).text == Text(inline="x")
    assert bench.went == ["a", "b"]


@pytest.mark.parametrize(("needed", "waits"), [(1, False), (2, True)])
async def test_a_deployment_that_is_away_for_long_is_waited_for_only_where_its_answer_is_needed(
    needed: int, waits: bool
) -> None:
    bench = Fanned({"a": texts("x"), "b": texts("y")}, needed=needed)
    worker = bench.worker()
    seats = worker._places.find

    async def find(route: Any, *rest: Any, **more: Any) -> Any:
        if route.deployment.name == "b":
            raise NotYetError(60, "deployment/b")
        return await seats(route, *rest, **more)

    worker._places.find = find
    if waits:
        with pytest.raises(NotYetError):
            await worker(event())
        worker._places.find = seats
        assert completion(await worker(event())).fan_out is not None and bench.went == ["a", "b"]
    else:
        one = completion(await worker(event()))
        assert one.fan_out is not None and one.fan_out.samples[1].code == "deployment_unavailable"


async def test_a_budget_holds_all_samples_and_what_they_cost_is_spent_once() -> None:
    bench = Fanned(texts("a", "b", "b"))
    alone = worst_case(event().record, replace(bench.route, fan_out=None), at=ACCEPTED)
    worst = worst_case(event().record, bench.route, at=ACCEPTED)
    assert worst == 3 * alone
    budgets = FakeBudgets(bench.clock)
    budget = Budget(name="acme", period="day", only={"tenant": "acme"}, hard_usd=worst)
    guard = Guard(budgets, (budget,), clock=bench.clock, hold_s=150)
    bench.model.hold = asyncio.Event()
    task = asyncio.create_task(bench.worker(guard=guard)(event()))
    while len(bench.model.calls) < 3:
        await asyncio.sleep(0)
    [standing] = budgets.standings.values()
    assert standing.reserved == worst
    assert set(budgets.samples[KEY.call_id]) == set(bench.journal.attempts), "whoever sweeps it has to find them"
    bench.model.hold.set()
    one = completion(await task)
    [standing] = budgets.standings.values()
    assert (standing.spent, standing.reserved) == (one.cost_usd, 0)
    with pytest.raises(RefusedError) as refused:
        await bench.worker("w2", guard=guard)(event("r2"))
    assert refused.value.code == "budget_exceeded" and len(bench.model.calls) == 3


async def test_another_run_uses_what_was_made_and_the_samples_that_were_paid_for() -> None:
    bench = Fanned({"a": texts("x"), "b": [BAD], "c": texts("x")}, needed=3)
    await bench.worker()(event())
    again = event()
    again = incoming(replace(again.record, meta=replace(again.record.meta, run="rerun")), CODEC)
    bench.says["b"] = texts("x")
    outputs = await bench.worker()(again)
    one = completion(outputs)
    assert bench.went.count("b") == 2 and bench.went.count("a") == bench.went.count("c") == 1
    assert (one.cost_usd, one.avoided_cost_usd) == (Decimal("0.00011"), Decimal("0.00022"))
    assert [cost.served_by for cost in costs(outputs)] == ["journal", "model", "journal"]
    assert as_bytes(await bench.worker("w2")(again)) == as_bytes(outputs)
    third = incoming(replace(again.record, meta=replace(again.record.meta, run="third")), CODEC)
    [cost, served] = await bench.worker("w3")(third)
    assert (cost.amount_usd, served.text, served.served_by) == (0, Text(inline="x"), "journal")
