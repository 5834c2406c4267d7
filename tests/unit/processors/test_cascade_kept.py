"""A cheap model's reply outlives its worker: what the journal keeps of it, and when it answers in a later life."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from processors.complete import keeping
from processors.complete.routes import Group
from processors.routing import Unavailable
from schemas.errors import CrashLoopError, DependencyDownError, IndeterminateError, TransientProviderError
from schemas.records import Answer, CascadeStep, Text
from tests.support.cascading import (
    DECLINED,
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

GONE = TransientProviderError("http_503", "503")
STOOD = ("stood", "unavailable", [(0, "cheap", "escalated", "refusal", "phrase")])


async def crash_in_call(bench: Cascading, name: str, owner: str = "w1") -> None:
    """Lose a worker while its call at this deployment is open."""
    bench.model.holds[name] = asyncio.Event()
    before = len(bench.model.calls)
    task = asyncio.create_task(bench.worker(owner)(event()))
    while name not in bench.went[before:]:
        await asyncio.sleep(0)
    # As a kill would: nothing is booked.
    bench.journal.down = True
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    bench.journal.down = False
    del bench.model.holds[name]
    bench.clock.advance(16)


async def test_after_a_crash_the_kept_reply_stands_where_the_stronger_model_fails() -> None:
    bench = Cascading([DECLINED], GONE)
    await crash_after_escalation(bench)
    assert bench.journal.calls[KEY.call_id].kept is not None
    outputs = await bench.worker("w2")(event())
    one = completion(outputs)
    assert bench.went == ["cheap", "strong"]
    assert (one.text, one.deployment, one.model) == (Text(inline=DECLINED.text or ""), "cheap", "model-cheap")
    assert told(one) == STOOD and one.usage is not None and one.usage.prompt_tokens == 100
    assert one.cost_usd == sum(cost.amount_usd for cost in costs(outputs)) == Decimal("0.00011")
    assert bench.journal.calls[KEY.call_id].kept is None
    assert as_bytes(await bench.worker("w3")(event())) == as_bytes(outputs)


async def test_the_kept_reply_stands_where_the_stronger_call_may_not_be_made_again() -> None:
    bench = Cascading([DECLINED], route={"max_attempts": 1})
    await crash_in_call(bench, "strong")
    outputs = await bench.worker("w2")(event())
    assert bench.went == ["cheap", "strong"] and told(completion(outputs)) == STOOD
    booked = [(cost.state, cost.error_code) for cost in costs(outputs)]
    assert booked == [("failed", "escalated_refusal"), ("unknown", "worker_lost"), ("failed", "worker_lost")]
    assert as_bytes(await bench.worker("w3")(event())) == as_bytes(outputs)


async def test_the_kept_reply_stands_after_a_loop_of_crashes_and_one_crash_more_ends_it() -> None:
    for lost in (3, 4):
        bench = Cascading([DECLINED], route={"max_attempts": 9})
        for life in range(3):
            await crash_in_call(bench, "strong", f"w{life}")
        if lost == 4:
            worker = bench.worker("w3")
            bench.journal.finish, finish = _away, bench.journal.finish  # type: ignore[method-assign,assignment]
            with pytest.raises(DependencyDownError):
                await worker(event())
            bench.journal.finish = finish  # type: ignore[method-assign]
            bench.clock.advance(16)
            with pytest.raises(CrashLoopError):
                await bench.worker("w4")(event())
        else:
            assert told(completion(await bench.worker("w3")(event()))) == STOOD
        assert bench.went == ["cheap", "strong", "strong", "strong"]


async def _away(*_: Any, **__: Any) -> Any:
    raise DependencyDownError("postgres", "killed while it was booked")


async def test_a_route_that_never_repeats_ends_a_lost_call_indeterminate_whatever_was_kept() -> None:
    bench = Cascading([DECLINED], route={"unknown_policy": "fail"})
    await crash_in_call(bench, "strong")
    with pytest.raises(IndeterminateError):
        await bench.worker("w2")(event())
    assert bench.journal.calls[KEY.call_id].kept is None


async def test_the_kept_reply_stands_where_no_stronger_deployment_is_to_be_had() -> None:
    bench = Cascading([DECLINED])
    await crash_after_escalation(bench)
    worker = bench.worker("w2")

    async def none(*_: Any, **__: Any) -> Unavailable:
        return Unavailable(60.0, "outage", "strong")

    worker._places.find = none  # type: ignore[method-assign,assignment]
    assert told(completion(await worker(event()))) == STOOD and bench.went == ["cheap"]


async def test_the_reply_of_a_step_that_did_not_pass_is_not_bought_again_and_is_the_one_that_stands() -> None:
    groups = tuple(Group(deployments=(deployment(name),)) for name in ("middle", "strong"))
    bench = Cascading([DECLINED], GONE, groups=groups)
    bench.says["middle"] = [reply("As an AI, I can't.")]
    await crash_in_call(bench, "strong")
    one = completion(await bench.worker("w2")(event()))
    assert bench.went == ["cheap", "middle", "strong", "strong"]
    assert (one.deployment, one.text) == ("middle", Text(inline="As an AI, I can't."))
    steps = [(0, "cheap", "escalated", "refusal", "phrase"), (1, "middle", "escalated", "refusal", "phrase")]
    assert told(one) == ("stood", "unavailable", steps)


async def test_a_crash_between_two_steps_goes_on_behind_the_one_that_did_not_pass() -> None:
    groups = tuple(Group(deployments=(deployment(name),)) for name in ("middle", "strong"))
    bench = Cascading([DECLINED], groups=groups)
    bench.says["middle"] = [DECLINED]
    await crash_after_escalation(bench)
    bench.model.holds["middle"] = asyncio.Event()
    second = asyncio.create_task(crash_after_escalation(bench, owner="w2"))
    while bench.went[-1] != "middle":
        await asyncio.sleep(0)
    bench.model.holds["middle"].set()
    await second
    assert completion(await bench.worker("w3")(event())).deployment == "strong"
    assert bench.went == ["cheap", "middle", "strong"]


async def test_what_is_kept_is_nobodys_once_the_request_has_expired() -> None:
    bench = Cascading([DECLINED])
    asked = event(expires_at=ACCEPTED + timedelta(seconds=10))
    await crash_after_escalation(bench, asked)
    *_, answer = await bench.worker("w2")(asked)
    assert isinstance(answer, Answer) and answer.status == "expired"
    assert bench.journal.calls[KEY.call_id].kept is None


async def test_after_a_stronger_answer_nothing_is_kept() -> None:
    bench = Cascading([DECLINED])
    await crash_in_call(bench, "strong")
    assert completion(await bench.worker("w2")(event())).deployment == "strong"
    assert bench.journal.calls[KEY.call_id].kept is None


async def test_a_reply_that_no_event_can_hold_is_not_kept_and_does_not_stand() -> None:
    bench = Cascading([reply("I can't help with \ud800 that")], GONE)
    *_, answer = await bench.worker()(event())
    assert isinstance(answer, Answer) and answer.failure is not None and answer.failure.code == "http_503"


def test_what_is_kept_is_read_back_as_it_was_written() -> None:
    one = reply(None, tool_calls_json='[{"id": "1"}]', response_id="r", fingerprint="f", model="m", usage=None)
    steps = (CascadeStep(attempt=0, deployment="cheap", outcome="escalated", check="format", value=1.0, threshold=3.0),)
    data = keeping.written(one, 2, steps)
    assert data is not None and keeping.read(data) == keeping.Kept(2, one, steps)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"attempt": 0, "reply": {}, "steps": []}', b'{"attempt": 0, "reply": 1, "steps": []}']
)
def test_what_can_not_be_read_is_as_if_nothing_had_been_kept(data: bytes) -> None:
    assert keeping.read(data) is None


def test_what_another_release_added_is_left_out() -> None:
    data = b'{"attempt": 1, "reply": {"text": "a", "finish_reason": "stop", "more": 1}, "steps": [{"more": 1}], "x": 2}'
    kept = keeping.read(data)
    assert kept is not None and kept.reply == replace(reply("a"), usage=None) and kept.steps == (CascadeStep(),)
