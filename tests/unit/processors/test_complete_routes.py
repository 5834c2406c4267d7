"""Routes with several deployments on the shipped fakes: failover, fallbacks by cause, the last resort, waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from processors.complete.deltas import FakeDeltaSink
from processors.complete.routes import Deployment, Group
from processors.event import Recorded
from processors.journal import MemoryJournal
from processors.model import FakeModelClient
from processors.model.port import ModelReply, SentCall, echo
from processors.routing.observer import NullPoolObserver
from schemas.errors import (
    DependencyDownError,
    NotYetError,
    OutcomeUnknownError,
    PermanentProviderError,
    ProviderError,
    TransientProviderError,
)
from schemas.records import Answer, Completion
from tests.support.completing import KEY, PRICE, Bench, as_bytes, event, streaming
from tests.support.polling import turns, until


def rate_limited(after_s: float | None = None) -> ProviderError:
    return TransientProviderError("http_429", "429", http_status=429, retry_after_s=after_s)


def down() -> ProviderError:
    return TransientProviderError("http_503", "503", http_status=503)


def group(*names: str) -> Group:
    return Group(deployments=tuple(deployment(name) for name in names))


def deployment(name: str, **changes: Any) -> Deployment:
    values: dict[str, Any] = {"model": f"model-{name}", "price": PRICE, "max_concurrency": 4}
    return Deployment(name=name, base_url=f"http://{name}/v1", **{**values, **changes})


Say = Callable[[], ModelReply | Exception]


class Routes(Bench):
    """A bench whose deployments answer by script: one list of errors each, used up in order."""

    def __init__(self, *own: Deployment, **route: Any) -> None:
        super().__init__()
        first, *others = own
        self.route = replace(self.route, deployment=first, others=tuple(others), **route)
        self.errors: dict[str, list[Exception | ModelReply]] = {}
        self.model.script = self._say

    def _say(self, call: SentCall) -> ModelReply | Exception:
        left = self.errors.get(call.deployment, [])
        return left.pop(0) if left else echo(call)

    @property
    def went(self) -> list[str]:
        return [call.deployment for call in self.model.calls]


def completion(outputs: Any) -> Completion:
    recorded = outputs[-1]
    assert isinstance(recorded, Recorded) and isinstance(recorded.record, Completion)
    return recorded.record


async def test_a_failure_goes_to_the_other_deployment_with_its_own_model_and_price_and_is_told_the_same_again() -> None:
    bench = Routes(deployment("a", weight=1.0), deployment("b", weight=0.0))
    bench.errors["a"] = [down()]
    outputs = await bench.worker()(event())
    assert bench.went == ["a", "b"]
    assert [call.payload["model"] for call in bench.model.calls] == ["model-a", "model-b"]
    told = completion(outputs)
    assert (told.deployment, told.model) == ("b", "model-b")
    assert [(one.deployment, one.state) for one in told.attempts] == [("a", "failed"), ("b", "done")]
    bench.clock.advance(60)
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(outputs) and len(bench.went) == 2


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (rate_limited(), "rate_limit"),
        (down(), "outage"),
        (PermanentProviderError("context_too_long", "400", http_status=400), "context_too_long"),
        (PermanentProviderError("content_refused", "400", http_status=400), "content_refused"),
        (TransientProviderError("malformed_response", "html", http_status=200), "malformed_output"),
        (PermanentProviderError("model_not_found", "404", http_status=404), "outage"),
    ],
)
async def test_each_cause_has_fallbacks_of_its_own_in_order(error: ProviderError, cause: str) -> None:
    others = {name: (group("wrong"),) for name in ("rate_limit", "outage", "context_too_long")}
    fallbacks = {**others, cause: (group("b"), group("c"))}
    bench = Routes(deployment("a"), fallbacks=fallbacks, max_attempts=1)
    bench.errors = {"a": [error] * 9, "b": [error] * 9}
    outputs = await bench.worker()(event())
    assert bench.went == ["a", "b", "c"]
    assert completion(outputs).deployment == "c"
    assert [row.target.route for row in bench.journal.attempts[KEY.call_id]] == ["default"] * 3


async def test_an_error_that_another_deployment_would_not_mend_ends_the_call() -> None:
    bench = Routes(deployment("a"), deployment("b"), fallbacks={"outage": (group("c"),)})
    bench.errors = {name: [PermanentProviderError("http_400", "400", http_status=400)] * 2 for name in "ab"}
    *_, answer = await bench.worker()(event())
    assert isinstance(answer, Answer) and answer.failure is not None and answer.failure.code == "http_400"
    assert len(bench.went) == 1


async def test_a_prompt_that_is_too_long_goes_to_a_longer_window_of_the_same_route_first() -> None:
    small = deployment("a", context_tokens=1000)
    bench = Routes(small, deployment("b", context_tokens=1000), deployment("c", context_tokens=9000, weight=0.0))
    too_long = PermanentProviderError("context_too_long", "400", http_status=400)
    bench.errors = {"a": [too_long], "b": [too_long]}
    assert completion(await bench.worker()(event())).deployment == "c" and len(bench.went) == 2


async def test_a_model_that_declines_is_paid_and_another_one_is_asked() -> None:
    bench = Routes(deployment("a"), fallbacks={"content_refused": (group("b"), group("c"))})
    declined = ModelReply(
        text=None, refusal="no", finish_reason="stop", usage={"prompt_tokens": 5, "completion_tokens": 1}
    )
    withheld = replace(declined, refusal=None, text="half", finish_reason="content_filter")
    bench.errors = {"a": [declined], "b": [withheld]}
    outputs = await bench.worker()(event())
    told = completion(outputs)
    assert told.deployment == "c"
    assert [(one.state, one.error_code) for one in told.attempts[:2]] == [("failed", "content_refused")] * 2
    assert all(one.cost_usd for one in told.attempts), "every reply is paid"
    assert told.cost_usd == sum(one.cost_usd or 0 for one in told.attempts)


async def test_a_refusal_stands_where_there_is_nobody_else_to_ask() -> None:
    bench = Routes(deployment("a"))
    bench.errors["a"] = [ModelReply(text=None, refusal="no", finish_reason="stop")]
    assert completion(await bench.worker()(event())).refusal is not None


async def test_a_refused_key_is_set_aside_and_the_next_one_is_used() -> None:
    seen: list[str] = []

    class Keyed(FakeModelClient):
        async def chat(self, deployment: Deployment, *given: Any, **more: Any) -> ModelReply:
            assert deployment.api_key is not None
            seen.append(deployment.api_key.get_secret_value())
            if seen[-1] == "x":
                raise PermanentProviderError("http_401", "401", http_status=401)
            return await super().chat(deployment, *given, **more)

    bench = Routes(deployment("a", api_keys=(SecretStr("x"), SecretStr("y"))))
    bench.model = Keyed()
    stage = bench.worker()
    for number in range(5):
        assert completion(await stage(event(f"r{number}"))).deployment == "a"
    assert seen.count("x") == 1 and seen.count("y") == 5


async def test_where_every_key_is_refused_the_request_fails_and_no_later_one_is_sent() -> None:
    bench = Routes(deployment("a"))
    bench.errors["a"] = [PermanentProviderError("http_401", "401", http_status=401)]
    stage = bench.worker()
    *_, answer = await stage(event("r1"))
    assert answer.failure.code == "http_401"
    *_, answer = await stage(event("r2"))
    assert answer.failure.code == "key_refused" and bench.went == ["a"]
    assert [row.cost_usd for rows in bench.journal.attempts.values() for row in rows] == [0, 0]


class Heard(NullPoolObserver):
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def on_fallback(self, route: str, cause: str) -> None:
        self.said.append((route, cause))

    def on_last_resort(self, route: str) -> None:
        self.said.append((route, "last_resort"))


async def broken(bench: Routes, name: str, stage: Any) -> None:
    """Open the breaker of a deployment."""
    bench.errors[name] = [down() for _ in range(5)]
    for number in range(9):
        if not bench.errors[name]:
            return
        try:
            await stage(event(f"break-{number}"))
        except NotYetError:
            continue


async def test_an_open_breaker_sends_requests_to_the_fallback_at_once() -> None:
    heard = Heard()
    bench = Routes(deployment("a"), fallbacks={"outage": (group("b"),)}, patience_s=0.5)
    stage = bench.worker(pool_observer=heard)
    await broken(bench, "a", stage)
    before = bench.went.count("a")
    assert completion(await stage(event("r1"))).deployment == "b"
    assert bench.went.count("a") == before and heard.said[-1] == ("default", "outage")


async def test_without_a_fallback_the_request_is_set_aside_until_something_can_be_had() -> None:
    bench = Routes(deployment("a"))
    stage = bench.worker()
    await broken(bench, "a", stage)
    with pytest.raises(NotYetError) as caught:
        await stage(event("r1"))
    assert caught.value.reason == "deployment/a" and 20 <= caught.value.wait_s <= 40
    assert not bench.journal.attempts.get(event("r1").meta.request_id)


async def test_a_wish_to_be_left_alone_for_minutes_sets_the_call_aside_between_two_attempts() -> None:
    bench = Routes(deployment("a"))
    bench.errors["a"] = [rate_limited(90)]
    with pytest.raises(NotYetError) as caught:
        await bench.worker()(event())
    assert 90 <= caught.value.wait_s <= 100
    bench.clock.advance(caught.value.wait_s)
    outputs = await bench.worker("w2")(event())
    assert [(one.ordinal, one.state) for one in completion(outputs).attempts] == [(0, "failed"), (1, "done")]


async def test_what_has_ended_is_told_again_though_nothing_can_be_had() -> None:
    bench = Routes(deployment("a"))
    stage = bench.worker()
    first = await stage(event("r1"))
    await broken(bench, "a", stage)
    assert as_bytes(await stage(event("r1"))) == as_bytes(first)


async def test_a_wait_beyond_the_ttl_goes_to_the_fallback_at_once() -> None:
    bench = Routes(deployment("a"), fallbacks={"rate_limit": (group("b"),)})
    bench.errors["a"] = [rate_limited(3000)]
    assert completion(await bench.worker()(event())).deployment == "b" and bench.went == ["a", "b"]


@pytest.mark.parametrize("code", ["http_503", "deployment_unavailable", "key_refused"])
async def test_the_last_resort_answers_and_says_so_and_says_the_same_again(code: str) -> None:
    heard = Heard()
    bench = Routes(deployment("a"), last_resort="Sorry ({{ code }}): {{ question }}", max_attempts=1, patience_s=0.1)
    stage = bench.worker(pool_observer=heard)
    if code == "deployment_unavailable":
        await broken(bench, "a", stage)
    if code == "key_refused":
        bench.errors["a"] = [PermanentProviderError("http_401", "401", http_status=401)]
        await stage(event("r0"))
    if code == "http_503":
        bench.errors["a"] = [down()]
    outputs = await stage(event("r1"))
    told = completion(outputs)
    assert told.served_by == "template" and told.text is not None
    assert told.text.inline == f"Sorry ({code}): What is a coroutine?"
    assert told.cost_usd == 0 and told.usage.completion_tokens == 0 and told.deployment == ""
    assert [one.error_code for one in told.attempts] == [code]
    assert heard.said[-1] == ("default", "last_resort")
    bench.clock.advance(100)
    assert as_bytes(await bench.worker("w2")(event("r1"))) == as_bytes(outputs)


async def test_a_stream_that_ends_in_the_last_resort_is_closed_with_its_text() -> None:
    bench = Routes(deployment("a"), last_resort="Sorry.", max_attempts=1)
    bench.errors["a"] = [down()]
    bench.sink = FakeDeltaSink()
    *_, closing, recorded = await bench.worker()(streaming())
    assert closing.final and closing.text.inline == "Sorry." and recorded.record.streamed


async def test_an_outcome_that_is_unknown_twice_goes_nowhere_else() -> None:
    bench = Routes(deployment("a"), deployment("b"), fallbacks={"outage": (group("c"),)})
    unknown = OutcomeUnknownError("timeout_total", "late")
    bench.errors = {"a": [unknown], "b": [unknown]}
    *_, answer = await bench.worker()(event())
    assert answer.status == "failed" and sorted(bench.went) == ["a", "b"]


async def test_a_model_that_was_asked_for_is_the_only_one_that_answers() -> None:
    bench = Routes(deployment("a"), deployment("b"), fallbacks={"outage": (group("c"),)}, max_attempts=1)
    for number in range(6):
        assert completion(await bench.worker()(event(f"r{number}", model="model-b"))).deployment == "b"
    bench.errors["b"] = [down()]
    *_, answer = await bench.worker()(event("r9", model="model-b"))
    assert answer.status == "failed" and bench.went == ["b"] * 7
    with pytest.raises(PermanentProviderError, match="does not offer"):
        await bench.worker()(event("r10", model="model-z"))


async def test_when_every_place_is_taken_requests_wait_and_none_fails() -> None:
    bench = Routes(deployment("a", max_concurrency=1), deployment("b", max_concurrency=1))
    bench.model.hold = asyncio.Event()
    stage = bench.worker()
    tasks = [asyncio.create_task(stage(event(f"r{n}"))) for n in range(20)]
    await until(lambda: bench.model.running == 2, "both places are taken")
    await turns()
    assert bench.model.running == 2
    bench.model.hold.set()
    assert len([completion(outputs) for outputs in await asyncio.gather(*tasks)]) == 20
    assert bench.model.most_running == 2


async def test_without_a_place_before_its_time_is_over_the_event_waits_for_the_deployment() -> None:
    bench = Routes(deployment("a", max_concurrency=1, total_timeout_s=0.2))
    bench.journal = MemoryJournal(bench.clock, lease_s=0.1)
    bench.model.hold = asyncio.Event()
    stage = bench.worker(timeout_s=2.5)
    first = asyncio.create_task(stage(event("r1")))
    await until(lambda: bench.model.running == 1, "the place is taken")
    with pytest.raises(DependencyDownError, match="every slot was taken"):
        await stage(event("r2"))
    bench.model.hold.set()
    await first


async def test_where_no_more_retries_may_be_made_requests_come_back_later_and_none_fails() -> None:
    bench = Routes(deployment("a"), max_attempts=20)
    mended = False
    bench.model.script = lambda call: echo(call) if mended else rate_limited()
    stage = bench.worker()
    with pytest.raises(NotYetError) as caught:
        await stage(event("r1"))
    assert 20 <= caught.value.wait_s <= 40 and len(bench.went) == 1 + 10
    with pytest.raises(NotYetError):
        await stage(event("r2"))
    assert len(bench.went) == 12, "its first attempt, and no other"
    mended = True
    bench.clock.advance(40)
    assert len(completion(await stage(event("r1"))).attempts) == 12


async def test_where_no_more_retries_may_be_made_the_last_resort_answers_at_once() -> None:
    bench = Routes(deployment("a"), max_attempts=20, last_resort="Sorry.")
    bench.model.script = lambda _: rate_limited()
    answer = completion(await bench.worker()(event()))
    assert answer.served_by == "template" and len(bench.went) == 11
    assert [one.error_code for one in answer.attempts] == ["http_429"] * 12, "the last of them was not sent"
