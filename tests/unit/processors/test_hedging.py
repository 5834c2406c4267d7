"""Hedged calls on the shipped fakes: when a second one is sent, whose reply is taken, and how both are booked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from processors.complete.routes import Deployment, HedgePolicy
from processors.complete.worst import worst_case
from processors.event import Incoming, Recorded
from processors.journal import AttemptRow
from processors.journal.entry import WORKER_LOST
from processors.journal.memory import MemoryJournal
from processors.journal.protocol import CANCELLED, HEDGE_LOST
from processors.model.port import echo
from schemas.errors import DependencyDownError, OutcomeUnknownError, ProviderError, TransientProviderError
from schemas.records import Answer, Completion, Cost, Enrichment
from tests.support.completing import KEY, PRICE, Bench, event, streaming
from tests.support.polling import until

AT_ONCE = HedgePolicy(floor_s=0.001, before_s=0.001, minimum_samples=500, share=1.0)
NEVER = replace(AT_ONCE, before_s=600.0)


def deployment(name: str, **changes: Any) -> Deployment:
    values: dict[str, Any] = {"model": f"model-{name}", "price": PRICE, "max_concurrency": 4}
    return Deployment(name=name, base_url=f"http://{name}/v1", **{**values, **changes})


def down() -> ProviderError:
    return TransientProviderError("http_503", "503", http_status=503)


class Scene(Bench):
    """Deployment ``a`` gets the first call, ``b`` the second; the calls at ``slow`` wait until they are let go."""

    def __init__(self, *slow: str, b: bool = True, hedge: HedgePolicy = AT_ONCE, **route: Any) -> None:
        super().__init__()
        others = (deployment("b", weight=0.0),) if b else ()
        self.route = replace(self.route, deployment=deployment("a"), others=others, hedge=hedge, **route)
        self.hedges: list[str] = []
        self.heard.on_hedge = lambda route, outcome: self.hedges.append(outcome)  # type: ignore[method-assign]
        for name in slow:
            self.model.holds[name] = asyncio.Event()

    @property
    def went(self) -> list[str]:
        return [call.deployment for call in self.model.calls]

    @property
    def rows(self) -> list[AttemptRow]:
        return self.journal.attempts[KEY.call_id]

    def fail_at(self, *names: str, error: ProviderError | None = None) -> None:
        self.model.script = lambda call: (error or down()) if call.deployment in names else echo(call)

    async def both_open(self, running: asyncio.Task[Any]) -> None:
        await until(lambda: running.done() or len(self.model.calls) == 2, "the scene to get there")
        assert not running.done()


async def completed(outputs: Awaitable[Sequence[Any]]) -> tuple[Completion, list[Cost]]:
    *costs, last = await outputs
    assert isinstance(last, Recorded) and isinstance(last.record, Completion)
    return last.record, costs


async def test_the_second_answers_while_the_first_is_silent_and_both_are_booked() -> None:
    scene = Scene("a")
    worker = scene.worker()
    completion, costs = await completed(worker(event()))
    assert scene.went == ["a", "b"] and scene.hedges == ["started", "won"]
    assert (completion.deployment, completion.model) == ("b", "model-b")
    lost, won = completion.attempts
    assert (lost.ordinal, lost.state, lost.error_code, lost.estimated, lost.upper_bound) == (
        (0, "unknown", HEDGE_LOST, True, True)
    )
    assert lost.cost_usd == scene.rows[0].target.bound.usd > Decimal(0)
    assert (won.ordinal, won.state, won.cost_usd) == (1, "done", scene.rows[1].cost_usd)
    assert completion.hedge is not None
    assert (completion.hedge.attempt, completion.hedge.won, completion.hedge.samples) == (1, 1, 0)
    assert completion.hedge.after_ms >= 1
    # The cost events say the same, and so does whoever tells it again.
    assert [(cost.attempt_id, cost.state, cost.amount_usd) for cost in costs] == [
        (row.attempt_id, row.state, row.cost_usd) for row in scene.rows
    ]
    assert completion.cost_usd == sum(cost.amount_usd for cost in costs)
    assert scene.model.cancelled == 1 and scene.model.running == 0
    # What was given up on purpose is no alarm: an answer came.
    assert scene.heard.unknowns == []
    assert (await completed(scene.worker("w2")(event())))[0] == completion and len(scene.model.calls) == 2


async def test_the_first_may_answer_first_even_so() -> None:
    scene = Scene("a", "b")
    running = asyncio.create_task(completed(scene.worker()(event())))
    await scene.both_open(running)
    scene.model.holds["a"].set()
    completion, costs = await running
    assert completion.deployment == "a" and scene.hedges == ["started", "lost"]
    assert completion.hedge is not None and (completion.hedge.attempt, completion.hedge.won) == (1, 0)
    assert [(one.ordinal, one.state, one.error_code) for one in completion.attempts] == [
        (0, "done", None),
        (1, "unknown", HEDGE_LOST),
    ]
    assert completion.usage.completion_tokens > 0 and len(costs) == 2
    assert scene.model.running == 0


async def test_a_call_that_answers_in_time_has_no_second() -> None:
    scene = Scene(hedge=NEVER)
    completion, costs = await completed(scene.worker()(event()))
    assert scene.went == ["a"] and scene.hedges == [] and completion.hedge is None and len(costs) == 1


async def test_a_call_that_has_begun_to_answer_has_no_second() -> None:
    scene = Scene("a", hedge=replace(AT_ONCE, before_s=0.05))
    scene.model.pieces = [["It "]]
    running = asyncio.create_task(completed(scene.worker()(event())))
    await until(lambda: bool(scene.model.calls), "the scene to get there")
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(running), 0.2)
    scene.model.holds["a"].set()
    completion, _ = await running
    assert scene.went == ["a"] and completion.hedge is None


async def test_the_first_fails_while_the_second_runs() -> None:
    scene = Scene("a", "b")
    scene.fail_at("a")
    running = asyncio.create_task(completed(scene.worker()(event())))
    await scene.both_open(running)
    scene.model.holds["a"].set()
    await until(lambda: scene.model.running == 1, "the scene to get there")
    assert not running.done()
    scene.model.holds["b"].set()
    completion, costs = await running
    assert [(one.state, one.error_code) for one in completion.attempts] == [("failed", "http_503"), ("done", None)]
    assert [cost.amount_usd > 0 for cost in costs] == [False, True]
    assert completion.hedge is not None and completion.hedge.won == 1 and scene.hedges == ["started", "won"]
    assert scene.journal.calls[KEY.call_id].state == "done"


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
async def test_both_fail_and_what_is_left_of_the_attempts_goes_on(order: tuple[str, str]) -> None:
    scene = Scene("a", "b", max_attempts=3)
    scene.fail_at("a", "b")
    running = asyncio.create_task(completed(scene.worker()(event())))
    await scene.both_open(running)
    scene.model.holds[order[0]].set()
    await until(lambda: scene.model.running == 1, "the scene to get there")
    scene.model.script = None
    scene.fail_at(order[1])
    scene.model.holds[order[1]].set()
    await until(lambda: scene.hedges == ["started", "failed"], "the scene to get there")
    scene.model.script = None
    completion, costs = await running
    assert [one.state for one in completion.attempts] == ["failed", "failed", "done"]
    assert completion.hedge is None and len(costs) == 3
    assert [one.ordinal for one in completion.attempts] == [0, 1, 2]


async def test_both_fail_and_no_attempt_is_left() -> None:
    scene = Scene("a", max_attempts=2)
    scene.fail_at("a", "b", error=OutcomeUnknownError("timeout_total", "slow"))
    running = asyncio.create_task(_outputs(scene, event()))
    await scene.both_open(running)
    scene.model.holds["a"].set()
    *costs, answer = await running
    assert isinstance(answer, Answer) and answer.failure is not None and answer.failure.code == "timeout_total"
    assert [row.state for row in scene.rows] == ["unknown", "unknown"] and len(costs) == 2
    assert answer.cost_usd == sum(cost.amount_usd for cost in costs)


async def _outputs(scene: Scene, incoming: Incoming[Enrichment]) -> Sequence[Any]:
    return await scene.worker()(incoming)


async def test_cancelling_closes_and_books_both() -> None:
    scene = Scene("a", "b")
    running = asyncio.create_task(_outputs(scene, event()))
    await scene.both_open(running)
    scene.control.cancel("acme", "r1")
    *costs, answer = await running
    assert isinstance(answer, Answer) and answer.failure is not None and answer.failure.code == CANCELLED.code
    assert [(row.state, row.error_code) for row in scene.rows] == [("unknown", CANCELLED.code)] * 2
    assert len(costs) == 2 and all(cost.amount_usd > 0 for cost in costs)
    assert scene.model.running == 0 and scene.model.cancelled == 2


async def test_a_worker_that_is_lost_with_both_open_costs_one_more_call_and_both_are_booked() -> None:
    scene = Scene("a", "b")
    running = asyncio.create_task(_outputs(scene, event()))
    await scene.both_open(running)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert scene.model.running == 0 and [row.state for row in scene.rows] == ["calling", "calling"]
    scene.clock.advance(60)
    scene.model.holds.clear()
    completion, costs = await completed(scene.worker("w2")(event()))
    assert [(one.state, one.error_code) for one in completion.attempts] == [
        ("unknown", WORKER_LOST),
        ("unknown", WORKER_LOST),
        ("done", None),
    ]
    assert len(costs) == 3 and scene.heard.unknowns == [WORKER_LOST, WORKER_LOST]
    # A call is hedged once at most, whatever becomes of it.
    assert len(scene.model.calls) == 3 and completion.hedge is None


async def test_the_only_deployment_is_asked_twice() -> None:
    scene = Scene("a", b=False)
    running = asyncio.create_task(completed(scene.worker()(event())))
    await scene.both_open(running)
    scene.model.holds["a"].set()
    completion, _ = await running
    assert scene.went == ["a", "a"] and completion.hedge is not None and completion.hedge.won == 0


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [({"share": 0.5}, "over_share"), ({"taken": True}, "no_seat"), ({"budget": True}, "no_retries")],
)
async def test_a_second_that_is_due_is_not_sent_where_there_is_no_room_for_it(
    changes: dict[str, Any], outcome: str
) -> None:
    scene = Scene("a", hedge=replace(AT_ONCE, share=changes.get("share", 1.0)))
    worker = scene.worker()
    pool = worker.pool
    if "taken" in changes:
        for _ in range(4):
            pool.member("b").begin(0, 0.0)
    if "budget" in changes:
        while pool.may_retry("a"):
            pass
    running = asyncio.create_task(completed(worker(event())))
    await until(lambda: bool(scene.hedges), "the scene to get there")
    scene.model.holds["a"].set()
    completion, _ = await running
    assert scene.hedges == [outcome] and scene.went == ["a"] and completion.hedge is None
    assert pool.member("b").in_flight == (4 if "taken" in changes else 0)


async def test_half_of_the_calls_is_hedged_where_that_is_the_share() -> None:
    scene = Scene("a", hedge=replace(AT_ONCE, share=0.5))
    worker = scene.worker()
    for number in range(6):
        scene.hedges.clear()
        running = asyncio.create_task(completed(worker(event(f"r{number}"))))
        await until(lambda: bool(scene.hedges), "the scene to get there")
        assert scene.hedges[0] == ("started" if number % 2 else "over_share")
        scene.model.holds["a"].set()
        await running
        scene.model.holds["a"].clear()


async def test_what_is_streamed_has_no_second() -> None:
    scene = Scene("a")
    running = asyncio.create_task(_outputs(scene, streaming()))
    await until(lambda: bool(scene.model.calls), "the scene to get there")
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(running), 0.1)
    scene.model.holds["a"].set()
    await running
    assert scene.went == ["a"] and scene.hedges == []


async def test_what_is_run_again_has_no_second() -> None:
    scene, asked = Scene("a"), event()
    running = asyncio.create_task(_outputs(scene, replace(asked, meta=replace(asked.meta, run="replay-1"))))
    await until(lambda: bool(scene.model.calls), "the scene to get there")
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(running), 0.1)
    scene.model.holds["a"].set()
    await running
    assert scene.went == ["a"] and scene.hedges == []


async def test_a_second_whose_row_could_not_be_committed_is_not_sent_and_costs_nothing() -> None:
    scene = Scene("a")

    class Flaky(MemoryJournal):
        async def next_attempt(self, *args: Any, **more: Any) -> AttemptRow:
            await super().next_attempt(*args, **more)
            raise DependencyDownError("postgres", "its reply was lost")

    scene.journal = Flaky(scene.clock)
    worker = scene.worker()
    running = asyncio.create_task(completed(worker(event())))
    await until(lambda: len(scene.journal.attempts.get(KEY.call_id, ())) == 2, "the scene to get there")
    await until(lambda: worker.pool.member("b").in_flight == 0, "the second's seat to be left")
    scene.model.holds["a"].set()
    completion, costs = await running
    assert scene.went == ["a"] and completion.deployment == "a"
    assert [(row.state, row.error_code, row.cost_usd) for row in scene.rows][1] == ("failed", HEDGE_LOST, Decimal(0))
    assert [cost.amount_usd > 0 for cost in costs] == [True, False]


async def test_no_seat_is_kept_by_any_of_it() -> None:
    scene = Scene("a")
    worker = scene.worker()
    await completed(worker(event()))
    scene.fail_at("b")
    running = asyncio.create_task(completed(worker(event("r2"))))
    await until(lambda: len(scene.model.calls) == 4, "the scene to get there")
    scene.model.holds["a"].set()
    await running
    assert [worker.pool.member(name).in_flight for name in "ab"] == [0, 0]


async def test_budgets_hold_what_a_hedged_call_costs_at_most() -> None:
    scene = Scene("a", max_attempts=2)
    dear = deployment("b", weight=0.0, price=replace(PRICE, prompt=10 * PRICE.prompt, completion=10 * PRICE.completion))
    scene.route = replace(scene.route, others=(dear,))
    scene.fail_at("a", "b", error=OutcomeUnknownError("timeout_total", "slow"))
    running = asyncio.create_task(_outputs(scene, event()))
    await scene.both_open(running)
    scene.model.holds["a"].set()
    await running
    spent = sum((row.cost_usd or Decimal(0) for row in scene.rows), Decimal(0))
    assert len(scene.rows) == 2 and spent > 10 * (scene.rows[0].cost_usd or Decimal(0))
    assert spent <= worst_case(event().record, scene.route, at=scene.clock.now())
