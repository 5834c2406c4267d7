"""The complete stage on the shipped fakes: outputs, retries, bookings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from processors.event import Recorded
from processors.model import ModelReply
from processors.model.port import SentCall, echo
from schemas.errors import (
    ConfigurationError,
    CrashLoopError,
    DependencyDownError,
    IndeterminateError,
    OutcomeUnknownError,
    PermanentProviderError,
    RefusedError,
    TransientProviderError,
)
from schemas.records import Answer, Completion, Cost, PromptRef, Sampling
from tests.support.completing import KEY, Bench, as_bytes, event
from tests.support.enrichments import ACCEPTED
from tests.support.polling import turns, until


async def test_a_call_gives_its_cost_and_then_its_completion() -> None:
    bench = Bench()
    cost, recorded = await bench.worker()(event())
    assert isinstance(cost, Cost) and isinstance(recorded, Recorded)
    completion = recorded.record
    assert isinstance(completion, Completion)
    assert completion.text is not None and completion.text.inline == "What is a coroutine?"
    assert cost.meta.event_id == cost.attempt_id == KEY.attempt_id(0)
    assert cost.amount_usd == completion.cost_usd == Decimal("0.000072")
    assert (cost.meta.control_offset, cost.team) == (3, "search")
    assert cost.price_source == "settings (prompt 3, completion 15, cached 0.3)"
    assert completion.attempts[0].attempt_id == cost.attempt_id
    assert bench.model.calls[0].headers["X-Request-Id"] == "r1"


async def test_a_redelivery_gives_the_same_bytes_and_buys_nothing() -> None:
    bench = Bench()
    bench.fail_with(TransientProviderError("http_500", "500", http_status=500))
    first = await bench.worker("w1")(event())
    bench.clock.advance(600)
    again = await bench.worker("w2")(replace(event(), control_offset=99))
    assert len(bench.model.calls) == 2
    assert as_bytes(first) == as_bytes(again)
    assert [type(item) for item in again] == [Cost, Cost, Recorded]


async def test_the_same_event_100_times_on_two_workers_is_paid_once() -> None:
    bench = Bench()
    bench.model.hold = asyncio.Event()
    workers = [bench.worker("w1"), bench.worker("w2")]
    tasks = [asyncio.create_task(workers[n % 2](event())) for n in range(100)]
    await until(lambda: bench.model.running == 1, "the call is open")
    await turns()
    bench.model.hold.set()
    results = await asyncio.gather(*tasks)
    assert len(bench.model.calls) == 1
    assert len({tuple(as_bytes(outputs)) for outputs in results}) == 1


async def test_an_event_that_drifted_is_called_with_the_stored_input() -> None:
    bench = Bench()
    bench.fail_with(PermanentProviderError("http_400", "400"))
    lost = bench.worker("w1")
    bench.model.hold = asyncio.Event()
    task = asyncio.create_task(lost(event(text="first")))
    await until(lambda: bench.model.running == 1, "the call is open")
    task.cancel()
    bench.clock.advance(16)
    bench.model.hold.set()
    bench.model.script = None
    *costs, recorded = await bench.worker("w2")(event(text="second"))
    assert bench.heard.drifts == 1
    assert recorded.record.text.inline == "first" and recorded.record.request.query.inline == "first"
    assert [cost.state for cost in costs] == ["unknown", "done"]


async def test_a_lost_worker_is_booked_at_its_upper_bound() -> None:
    bench = Bench()
    bench.model.hold = asyncio.Event()
    task = asyncio.create_task(bench.worker("w1")(event()))
    await until(lambda: bench.model.running == 1, "the call is open")
    task.cancel()
    bench.clock.advance(16)
    bench.model.hold.set()
    lost, done, recorded = await bench.worker("w2")(event())
    assert lost.upper_bound and lost.estimated and lost.amount_usd >= done.amount_usd > 0
    assert recorded.record.cost_usd == lost.amount_usd + done.amount_usd and recorded.record.estimated
    assert bench.heard.unknowns == ["worker_lost"]


async def test_a_route_that_forbids_to_repeat_ends_an_unknown_call() -> None:
    bench = Bench(unknown_policy="fail")
    bench.fail_with(OutcomeUnknownError("cut_off", "cut off"))
    with pytest.raises(IndeterminateError) as caught:
        await bench.worker()(event())
    cost, answer = caught.value.outputs
    assert isinstance(cost, Cost) and cost.upper_bound
    assert isinstance(answer, Answer) and answer.status == "failed"
    with pytest.raises(IndeterminateError) as again:
        await bench.worker("w2")(event())
    assert as_bytes(again.value.outputs) == as_bytes(caught.value.outputs)
    assert len(bench.model.calls) == 1


async def test_an_unknown_outcome_is_repeated_once() -> None:
    bench = Bench(max_attempts=9)
    bench.fail_with(*[OutcomeUnknownError("cut_off", "cut off")] * 5)
    *costs, answer = await bench.worker()(event())
    assert [cost.state for cost in costs] == ["unknown", "unknown"]
    assert answer.status == "failed" and answer.failure.code == "cut_off" and len(answer.attempts) == 2


async def test_transient_errors_are_retried_within_the_limit() -> None:
    bench = Bench(max_attempts=3)
    bench.fail_with(*[TransientProviderError("http_503", "503", http_status=503)] * 5)
    *costs, answer = await bench.worker()(event())
    assert [cost.amount_usd for cost in costs] == [Decimal(0)] * 3
    assert (answer.failure.code, answer.failure.error_class) == ("http_503", "transient-provider")
    assert len(bench.model.calls) == 3


async def test_a_wish_to_wait_past_the_ttl_is_not_waited_for() -> None:
    bench = Bench()
    bench.fail_with(TransientProviderError("http_429", "429", http_status=429, retry_after_s=301))
    _, answer = await bench.worker(timeout_s=1000)(event())
    assert answer.failure.code == "http_429" and len(bench.model.calls) == 1


async def test_a_permanent_error_fails_at_once() -> None:
    bench = Bench()
    bench.fail_with(PermanentProviderError("context_too_long", "too long", http_status=400))
    cost, answer = await bench.worker()(event())
    assert cost.amount_usd == 0 and answer.failure.code == "context_too_long"
    assert as_bytes([cost, answer]) == as_bytes(await bench.worker("w2")(event()))


async def test_an_expired_request_ends_before_any_spend() -> None:
    bench = Bench()
    with pytest.raises(RefusedError) as caught:
        await bench.worker()(event(expires_at=ACCEPTED))
    assert (caught.value.status, caught.value.code) == ("expired", "expired")
    assert bench.model.calls == [] and bench.journal.calls == {}


async def test_a_response_that_was_paid_is_given_out_even_after_the_ttl() -> None:
    bench = Bench()
    first = await bench.worker()(event())
    bench.clock.advance(3600)
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(first)


async def test_a_response_outlives_an_outage_of_the_journal() -> None:
    bench = Bench()
    worker = bench.worker()

    def reply_while_down(call: SentCall) -> ModelReply:
        bench.journal.down = True
        return echo(call)

    bench.model.script = reply_while_down
    with pytest.raises(DependencyDownError):
        await worker(event())
    bench.journal.down = False
    bench.clock.advance(60)
    assert [type(item) for item in await worker(event())] == [Cost, Recorded]
    assert len(bench.model.calls) == 1


async def test_three_workers_lost_in_one_call_are_a_crash_loop() -> None:
    bench = Bench(max_attempts=9)
    bench.model.hold = asyncio.Event()
    for number in (1, 2, 3):
        task = asyncio.create_task(bench.worker(f"w{number}")(event()))
        await until(lambda number=number: len(bench.model.calls) == number, "the call is open")  # type: ignore[misc]
        task.cancel()
        bench.clock.advance(16)
    with pytest.raises(CrashLoopError) as caught:
        await bench.worker("w4")(event())
    assert [type(item) for item in caught.value.outputs] == [Cost, Cost, Cost, Answer]


async def test_a_late_result_is_booked_as_duplicate_spend_and_the_sum_is_the_truth() -> None:
    bench = Bench()
    hold = bench.model.hold = asyncio.Event()
    paused = asyncio.create_task(bench.worker("w1")(event()))
    await until(lambda: bench.model.running == 1, "the call is open")
    bench.clock.advance(16)
    bench.model.hold = None
    first = await bench.worker("w2")(event())
    hold.set()
    late = await paused
    assert [type(item) for item in late] == [Cost, Cost, Cost, Recorded]
    assert set(as_bytes(first)) < set(as_bytes(late))
    costs = [item for item in late if isinstance(item, Cost)]
    assert sum(cost.amount_usd for cost in costs) == 2 * Decimal("0.000072")
    row, *_ = await bench.journal.attempts_of(KEY)
    assert (row.state, row.duplicate) == ("done", True)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"prompt_tokens": "six", "completion_tokens": 4},
        {"prompt_tokens": -1, "completion_tokens": 4},
        {"prompt_tokens": 6, "completion_tokens": 0},
        {"prompt_tokens": 6, "completion_tokens": 10**9},
    ],
)
async def test_usage_that_is_missing_or_wrong_is_estimated(usage: dict[str, Any] | None) -> None:
    bench = Bench()
    bench.model.script = lambda call: replace(echo(call), usage=usage)
    cost, recorded = await bench.worker()(event())
    assert cost.usage.estimated and cost.estimated and recorded.record.estimated
    assert (cost.usage.prompt_tokens, cost.usage.completion_tokens) == (6, 5)


async def test_cached_tokens_have_their_own_price() -> None:
    bench = Bench()
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 900}}
    bench.model.script = lambda call: replace(echo(call), usage=usage)
    cost, _ = await bench.worker()(event())
    assert cost.amount_usd == (100 * Decimal(3) + 900 * Decimal("0.3") + 10 * Decimal(15)) / 1_000_000


async def test_a_deployment_is_never_called_more_often_at_once_than_it_may_be() -> None:
    bench = Bench()
    bench.model.hold = asyncio.Event()
    worker = bench.worker()
    tasks = [asyncio.create_task(worker(event(f"r{n}"))) for n in range(20)]
    await until(lambda: bench.model.running == 4, "every place is taken")
    await turns()
    assert bench.model.running == 4
    assert len(bench.journal.calls) == 4  # nobody holds a lease while waiting
    bench.model.hold.set()
    await asyncio.gather(*tasks)
    assert bench.model.most_running == 4 and len(bench.model.calls) == 20


async def test_parameters_reach_the_model_as_they_were_given() -> None:
    bench = Bench()
    sampling = Sampling(temperature=0.2, stop=("END",), seed=7, top_logprobs=2, reasoning_effort="low", max_tokens=9)
    await bench.worker()(event(sampling=sampling, tool_choice_json='"auto"', prompt=PromptRef(name="answer")))
    payload = bench.model.calls[0].payload
    assert (
        payload
        | {
            "temperature": 0.2,
            "stop": ["END"],
            "seed": 7,
            "logprobs": True,
            "top_logprobs": 2,
            "reasoning_effort": "low",
            "max_tokens": 9,
            "tool_choice": "auto",
        }
        == payload
    )


@pytest.mark.parametrize("changes", [{"route": "nowhere"}, {"model": "another"}])
async def test_an_unknown_route_or_model_is_a_permanent_failure(changes: dict[str, Any]) -> None:
    bench = Bench()
    with pytest.raises(PermanentProviderError):
        await bench.worker()(event(**changes))
    assert bench.model.calls == []


@pytest.mark.parametrize("error", [None, PermanentProviderError("http_400", "400")])
@pytest.mark.parametrize("changed", ["route", "model"])
async def test_what_was_paid_is_given_out_after_its_route_or_model_left_the_settings(
    changed: str, error: Exception | None
) -> None:
    bench = Bench()
    if error is not None:
        bench.fail_with(error)
    asked = event(model="m1")
    first = await bench.worker()(asked)
    deployment = replace(bench.route.deployment, model="m2")
    routes = {"default": replace(bench.route, deployment=deployment)} if changed == "model" else {}
    other = bench.worker("w2", routes=routes)
    assert as_bytes(await other(asked)) == as_bytes(first)
    assert len(bench.model.calls) == 1


def test_a_timeout_that_holds_no_lease_and_call_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError):
        Bench().worker(timeout_s=100)


@pytest.mark.parametrize("known", [True, False])
async def test_a_worker_that_was_paused_before_sending_sends_only_what_is_known_to_be_its_own(
    monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    bench = Bench()
    worker = bench.worker()
    holding, renew = worker.keeper.holding, worker.keeper.renew
    # Before the first attempt alone: the second one renews the lease by itself.
    monkeypatch.setattr(worker.keeper, "holding", lambda lease, *, since: holding(lease, since=since - 60))
    away = iter([] if known else [DependencyDownError("postgres", "away")])

    async def asked() -> None:
        for error in away:
            raise error
        await renew()

    monkeypatch.setattr(worker.keeper, "renew", asked)
    *skipped, done, _ = await worker(event())
    assert isinstance(done, Cost) and done.state == "done"
    told = [(one.state, one.error_code, one.amount_usd) for one in skipped if isinstance(one, Cost)]
    assert told == ([] if known else [("failed", "lease_lost", 0)])
    assert len(bench.model.calls) == 1


async def test_a_request_that_expires_between_attempts_ends_expired_with_its_costs() -> None:
    bench = Bench()

    def fail_late(call: SentCall) -> Exception:
        bench.clock.advance(301)
        return TransientProviderError("http_500", "500", http_status=500)

    bench.model.script = fail_late
    cost, answer = await bench.worker()(event())
    assert isinstance(cost, Cost) and answer.status == "expired"
    assert answer.decided_at == ACCEPTED + timedelta(seconds=301)
