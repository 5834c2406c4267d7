"""Failing over to a route's own deployments that were not tried: at once, as no repeat; else what follows instead."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from processors.complete.processor import Complete
from processors.complete.retry import Backoff
from processors.complete.routes import Group
from processors.model.port import SentCall
from processors.routing import Ask, Seat
from processors.routing.causes import Ended
from schemas.errors import NotYetError, OutcomeUnknownError, ProviderError
from schemas.records import Answer
from tests.support.completing import KEY, event
from tests.support.enrichments import ACCEPTED
from tests.unit.processors.test_complete_routes import Routes, completion, deployment, down, group, rate_limited


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The attempts after which a repeat was waited for."""
    seen: list[int] = []

    def delay_s(_: Backoff, attempt: int, _random: Any) -> float:
        seen.append(attempt)
        return 0.001

    monkeypatch.setattr(Backoff, "delay_s", delay_s)
    return seen


async def let_alone(bench: Routes, stage: Complete, name: str) -> None:
    """Open the breaker of a deployment."""
    only = Group(deployments=tuple(one for one in bench.route.deployments if one.name == name))
    for _ in range(5):
        seat = await stage.pool.take(Ask(group=only))
        assert isinstance(seat, Seat)
        stage.pool.leave(seat, Ended("failed"))


def spent(stage: Complete, name: str) -> int:
    """How many repeats are left there; none afterwards."""
    left = 0
    while stage.pool.may_retry(name):
        left += 1
    return left


@pytest.mark.parametrize("error", [down(), rate_limited(), OutcomeUnknownError("timeout_total", "late")])
async def test_the_other_deployment_is_asked_at_once_though_the_one_that_failed_has_no_repeats_left(
    waits: list[int], error: ProviderError
) -> None:
    bench = Routes(deployment("a"), deployment("b", weight=0.0))
    stage = bench.worker()
    spent(stage, "a")
    bench.errors["a"] = [error]
    assert completion(await stage(event())).deployment == "b"
    assert bench.went == ["a", "b"] and waits == []


async def test_going_to_a_deployment_that_was_not_tried_spends_no_repeat(waits: list[int]) -> None:
    bench = Routes(deployment("a"), deployment("b", weight=0.0))
    stage = bench.worker()
    bench.errors["a"] = [rate_limited() for _ in range(8)]
    for number in range(8):
        assert completion(await stage(event(f"r{number}"))).deployment == "b"
    assert spent(stage, "a") == 10 and waits == []


async def test_of_three_each_is_tried_before_one_is_tried_again(waits: list[int]) -> None:
    bench = Routes(deployment("a"), deployment("b", weight=0.001), deployment("c", weight=0.0), max_attempts=4)
    stage = bench.worker()
    bench.errors = {"a": [down()], "b": [down()], "c": [down()]}
    assert completion(await stage(event())).deployment in "ab"
    assert bench.went[:3] == ["a", "b", "c"] and waits == [2], "only the fourth is a repeat"
    assert (spent(stage, "a"), spent(stage, "b"), spent(stage, "c")) == (10, 10, 9)


async def test_a_repeat_goes_to_another_one_than_failed_last_once_all_were_tried(waits: list[int]) -> None:
    bench = Routes(deployment("a"), deployment("b", weight=0.0), max_attempts=4)
    bench.errors = {"a": [down(), down()], "b": [down()]}
    assert completion(await bench.worker()(event())).deployment == "b"
    assert bench.went == ["a", "b", "a", "b"] and waits == [1, 2]


async def test_no_further_deployment_is_tried_once_the_attempts_are_over() -> None:
    bench = Routes(deployment("a"), deployment("b"), fallbacks={"outage": (group("c"),)}, max_attempts=1)
    bench.errors = {name: [down()] for name in "abc"}
    *_, answer = await bench.worker()(event())
    assert isinstance(answer, Answer) and answer.status == "failed"
    assert len(bench.went) == 2 and bench.went[1] == "c"


async def test_nothing_goes_back_from_a_fallback_to_one_that_was_not_tried(waits: list[int]) -> None:
    bench = Routes(deployment("a"), deployment("b"), fallbacks={"outage": (group("c"),)})
    stage = bench.worker()
    for _ in range(4):
        key, _probe = stage.pool.member("b").begin(0, 0.0)
    spent(stage, "a")

    def failing(call: SentCall) -> Exception:
        if call.deployment == "c":
            stage.pool.member("b").end(key, Ended("neutral"), probe=False, began=0.0, tokens=0, now=0.0)
        return down()

    bench.model.script = failing
    *_, answer = await stage(event())
    assert isinstance(answer, Answer) and answer.status == "failed" and bench.went == ["a", "c"]


@pytest.mark.parametrize("how", ["let alone", "full"])
async def test_repeats_wait_and_count_while_the_deployment_that_was_not_tried_cannot_be_had(
    waits: list[int], how: str
) -> None:
    bench = Routes(deployment("a"), deployment("b"))
    stage = bench.worker()
    if how == "full":
        for _ in range(4):
            stage.pool.member("b").begin(0, 0.0)
    else:
        await let_alone(bench, stage, "b")
    bench.errors["a"] = [rate_limited(), rate_limited()]
    assert completion(await stage(event())).deployment == "a"
    assert bench.went == ["a", "a", "a"] and waits == [0, 1]
    assert spent(stage, "a") == 8


async def test_of_three_the_one_that_can_be_had_is_tried_while_another_is_let_alone(waits: list[int]) -> None:
    bench = Routes(deployment("a"), deployment("b", weight=0.001), deployment("c", weight=0.0))
    stage = bench.worker()
    await let_alone(bench, stage, "b")
    bench.errors = {"a": [down()], "c": [down()]}
    outputs = await stage(event())
    assert bench.went[:2] == ["a", "c"] and waits == [1]
    assert completion(outputs).deployment in "ac" and spent(stage, "b") == 10


async def test_after_the_wait_one_that_was_not_tried_goes_first_if_it_can_be_had_by_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Routes(deployment("a"), deployment("b", weight=0.001), deployment("c", weight=0.0))
    stage = bench.worker()
    taken = [stage.pool.member("c").begin(0, 0.0)[0] for _ in range(4)]

    def delay_s(*_: Any) -> float:
        stage.pool.member("c").end(taken.pop(), Ended("neutral"), probe=False, began=0.0, tokens=0, now=0.0)
        return 0.001

    monkeypatch.setattr(Backoff, "delay_s", delay_s)
    bench.errors = {"a": [down()], "b": [down()]}
    assert completion(await stage(event())).deployment == "c"
    assert bench.went == ["a", "b", "c"]


async def test_without_repeats_left_and_without_another_the_fallback_for_the_cause_answers(waits: list[int]) -> None:
    bench = Routes(deployment("a"), deployment("b"), fallbacks={"outage": (group("c"),), "rate_limit": (group("d"),)})
    stage = bench.worker()
    await let_alone(bench, stage, "b")
    spent(stage, "a")
    bench.errors["a"] = [rate_limited(), down()]
    assert completion(await stage(event("r1"))).deployment == "d"
    assert completion(await stage(event("r2"))).deployment == "c"
    assert bench.went == ["a", "d", "a", "c"]


async def test_without_repeats_left_and_without_another_the_event_comes_back_later(waits: list[int]) -> None:
    bench = Routes(deployment("a"), deployment("b"))
    stage = bench.worker()
    await let_alone(bench, stage, "b")
    spent(stage, "a")
    bench.errors["a"] = [rate_limited()]
    with pytest.raises(NotYetError) as caught:
        await stage(event())
    assert caught.value.reason == "deployment/a" and bench.went == ["a"]


async def test_a_call_that_may_neither_go_elsewhere_nor_wait_ends_with_its_error(waits: list[int]) -> None:
    bench = Routes(deployment("a"), deployment("b"))
    stage = bench.worker()
    await let_alone(bench, stage, "b")
    spent(stage, "a")
    bench.errors["a"] = [rate_limited()]
    *_, answer = await stage(event(expires_at=ACCEPTED + timedelta(seconds=15)))
    assert isinstance(answer, Answer) and answer.failure is not None and answer.failure.code == "http_429"
    assert [row.error_code for row in bench.journal.attempts[KEY.call_id]] == ["http_429"]


async def test_such_a_call_is_answered_by_the_last_resort_where_there_is_one(waits: list[int]) -> None:
    bench = Routes(deployment("a"), deployment("b"), last_resort="Sorry.")
    stage = bench.worker()
    await let_alone(bench, stage, "b")
    spent(stage, "a")
    bench.errors["a"] = [rate_limited()]
    assert completion(await stage(event())).served_by == "template" and bench.went == ["a"]
