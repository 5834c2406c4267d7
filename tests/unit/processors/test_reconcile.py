"""A provider is asked what became of an attempt before another one is sent, and what it says is booked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from processors.complete import unresolved
from processors.complete.reconcile import FakeReconciler, HttpReconciler, Known, NotTaken, Replied, Undecided
from processors.complete.routes import Deployment
from processors.event import Recorded
from processors.journal import AttemptRow
from processors.model import ModelReply
from schemas.errors import IndeterminateError, OutcomeUnknownError
from schemas.records import Completion
from tests.support.completing import KEY, Bench, as_bytes, event
from tests.support.targets import target

REPLY = ModelReply(
    text="found", finish_reason="stop", response_id="x-1", usage={"prompt_tokens": 10, "completion_tokens": 2}
)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unresolved, "_PAUSE_S", 0.0)


def bench_of(answer: Known | Callable[[str], Known]) -> tuple[Bench, FakeReconciler]:
    script = answer if callable(answer) else lambda _: answer
    return Bench(unknown_policy="reconcile"), FakeReconciler(script)


async def lose(bench: Bench, asked: FakeReconciler) -> None:
    """A worker that is lost in the middle of its call."""
    bench.model.hold = asyncio.Event()
    task = asyncio.create_task(bench.worker("w1", reconciler=asked)(event()))
    while not bench.model.calls:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    bench.clock.advance(16)
    bench.model.hold.set()


async def test_a_reply_that_a_lost_worker_had_bought_is_used_and_not_bought_again() -> None:
    bench, asked = bench_of(Replied(REPLY))
    await lose(bench, asked)
    outputs = await bench.worker("w2", reconciler=asked)(event())
    recorded = outputs[-1]
    assert isinstance(recorded, Recorded) and isinstance(recorded.record, Completion)
    assert recorded.record.text is not None and recorded.record.text.inline == "found"
    assert recorded.record.usage.completion_tokens == 2 and recorded.record.response_id == "x-1"
    assert len(bench.model.calls) == 1 and asked.asked == [KEY.attempt_id(0)]
    lost, opened = bench.journal.attempts[KEY.call_id]
    assert (lost.state, lost.cost_usd) == ("done", Decimal("0.00006")) and lost.late_at is not None
    assert (opened.state, opened.error_code, opened.cost_usd) == ("failed", "reconciled", 0)
    costs = [cost.amount_usd for cost in outputs[:-1]]  # type: ignore[union-attr]
    assert sum(costs) == Decimal("0.00006"), "the bound and its correction"
    bench.clock.advance(100)
    assert as_bytes(await bench.worker("w3", reconciler=asked)(event())) == as_bytes(outputs)


async def test_an_attempt_that_was_never_taken_costs_nothing_and_the_next_one_is_sent() -> None:
    bench, asked = bench_of(NotTaken())
    bench.fail_with(OutcomeUnknownError("connection_lost", "lost"))
    first, second, recorded = await bench.worker(reconciler=asked)(event())
    assert (first.state, first.amount_usd, first.error_code) == ("failed", 0, "not_taken")  # type: ignore[union-attr]
    assert second.state == "done" and recorded.record.cost_usd == second.amount_usd  # type: ignore[union-attr]
    assert len(bench.model.calls) == 2


async def test_where_nobody_can_tell_the_call_ends_indeterminate_and_nothing_is_sent() -> None:
    bench, asked = bench_of(Undecided())
    await lose(bench, asked)
    with pytest.raises(IndeterminateError) as caught:
        await bench.worker("w2", reconciler=asked)(event())
    cost, unsent, answer = caught.value.outputs
    assert cost.upper_bound and unsent.amount_usd == 0 and answer.status == "failed"  # type: ignore[attr-defined]
    assert len(bench.model.calls) == 1 and len(asked.asked) == 5


async def test_a_provider_that_is_still_at_work_is_asked_again() -> None:
    answers: list[Known] = [Undecided(), Undecided(), Replied(REPLY)]
    bench, asked = bench_of(lambda _: answers.pop(0))
    await lose(bench, asked)
    outputs = await bench.worker("w2", reconciler=asked)(event())
    assert outputs[-1].record.text.inline == "found" and len(bench.model.calls) == 1  # type: ignore[union-attr]


async def test_every_attempt_of_which_nothing_is_known_is_asked_for() -> None:
    bench, asked = bench_of(Undecided())
    await lose(bench, asked)
    crashing = FakeReconciler(_crash)
    task = asyncio.create_task(bench.worker("w2", reconciler=crashing)(event()))
    await asyncio.wait((task,))
    assert isinstance(task.exception(), RuntimeError)
    bench.clock.advance(16)
    third = FakeReconciler(lambda attempt_id: Replied(REPLY) if attempt_id == KEY.attempt_id(0) else NotTaken())
    outputs = await bench.worker("w3", reconciler=third)(event())
    assert third.asked == [KEY.attempt_id(0)] and len(bench.model.calls) == 1
    assert outputs[-1].record.text.inline == "found"  # type: ignore[union-attr]


def _crash(_: str) -> Known:
    raise RuntimeError


def row() -> AttemptRow:
    started = datetime(2026, 1, 1, tzinfo=UTC)
    return AttemptRow(attempt_id="a-1", ordinal=0, epoch=1, target=target("1"), state="unknown", started_at=started)


WHOLE = {"id": "x", "model": "m", "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("status", "body", "known"),
    [
        (200, WHOLE, Replied),
        (200, {"no": "choices"}, Undecided),
        (200, {"error": {"message": "x"}}, Undecided),
        (404, {}, NotTaken),
        (410, {}, NotTaken),
        (202, {}, Undecided),
        (302, {}, Undecided),
        (500, WHOLE, Undecided),
    ],
)
async def test_a_status_says_what_became_of_an_attempt(status: int, body: Any, known: type[Known]) -> None:
    seen: list[tuple[str, str | None]] = []

    async def attempts(request: web.Request) -> web.Response:
        seen.append((request.path, request.headers.get("Authorization")))
        return web.json_response(body, status=status, headers={"Location": "http://127.0.0.1:9/"})

    app = web.Application()
    app.add_routes([web.get("/attempts/{id}", attempts)])
    async with TestServer(app) as server:
        url = f"http://127.0.0.1:{server.port}/attempts/{{attempt_id}}"
        deployment = Deployment(name="d", base_url="http://d", model="m", api_key=SecretStr("k"), reconcile_url=url)
        assert isinstance(await HttpReconciler().ask(row(), deployment), known)
    assert seen == [("/attempts/a-1", "Bearer k")]


async def test_a_provider_that_is_away_or_has_no_such_address_can_not_tell() -> None:
    away = Deployment(name="d", base_url="http://d", model="m", reconcile_url="http://127.0.0.1:9/{attempt_id}")
    assert await HttpReconciler().ask(row(), away) == Undecided()
    assert await HttpReconciler().ask(row(), replace(away, reconcile_url=None)) == Undecided()
