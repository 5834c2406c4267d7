"""A call's budgets: reserved before it is granted, settled when it has ended, and never in the way of what is paid."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from processors.budgets.port import FakeBudgets
from processors.budgets.rule import Budget
from processors.complete.processor import Complete
from processors.complete.purse import Guard
from processors.complete.worst import worst_case
from schemas.errors import DependencyDownError, IndeterminateError, NotYetError, OutcomeUnknownError, RefusedError
from schemas.records import Alert, Cost, ResponseFormat
from tests.support.completing import Bench, as_bytes, event
from tests.support.enrichments import ACCEPTED


class Budgeted(Bench):
    """A bench whose calls have a budget of ``hard`` worst cases."""

    def __init__(self, hard: str = "2.5", **route: Any) -> None:
        super().__init__(**route)
        self.worst = worst_case(event().record, self.route, at=ACCEPTED)
        self.budget = Budget(name="acme", period="day", only={"tenant": "acme"}, hard_usd=self.worst * Decimal(hard))
        self.budgets = FakeBudgets(self.clock)

    def worker(self, owner: str = "w1", **options: Any) -> Complete:
        guard = Guard(self.budgets, (self.budget,), clock=self.clock, hold_s=150)
        return super().worker(owner, guard=guard, **options)

    @property
    def money(self) -> tuple[Decimal, Decimal]:
        [standing] = self.budgets.standings.values()
        return standing.spent, standing.reserved

    def spend(self, share: str) -> None:
        """Somebody else spent this share of the limit."""
        [(key, standing)] = self.budgets.standings.items()
        assert self.budget.hard_usd is not None
        self.budgets.standings[key] = replace(standing, spent=self.budget.hard_usd * Decimal(share))


async def test_the_worst_case_is_held_while_the_call_is_open_and_what_it_cost_stays() -> None:
    bench = Budgeted()
    bench.model.hold = asyncio.Event()
    task = asyncio.create_task(bench.worker()(event()))
    while not bench.model.calls:
        await asyncio.sleep(0)
    assert bench.money == (0, bench.worst)
    bench.model.hold.set()
    cost, _ = await task
    assert bench.money == (cost.amount_usd, 0) and 0 < cost.amount_usd < bench.worst


async def test_a_redelivery_reserves_and_settles_nothing_more() -> None:
    bench = Budgeted()
    first = await bench.worker()(event())
    money = bench.money
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(first)
    assert bench.money == money


async def test_what_a_failed_call_may_have_cost_is_spent() -> None:
    bench = Budgeted(unknown_policy="fail")
    bench.fail_with(OutcomeUnknownError("cut_off", "cut off"))
    with pytest.raises(IndeterminateError) as caught:
        await bench.worker()(event())
    [cost] = [output for output in caught.value.outputs if isinstance(output, Cost)]
    assert bench.money == (cost.amount_usd, 0) and cost.upper_bound


async def test_a_call_that_no_money_is_left_for_is_refused_before_anything_is_spent() -> None:
    bench = Budgeted()
    await bench.worker()(event())
    bench.spend("0.9")
    with pytest.raises(RefusedError) as refused:
        await bench.worker()(event("r2"))
    assert (refused.value.code, refused.value.status) == ("budget_exceeded", "rejected")
    assert refused.value.retry_after_s == pytest.approx(24 * 3600)
    assert len(bench.model.calls) == 1 and bench.money[1] == 0
    assert not [call for call in bench.journal.calls.values() if call.key.request_id == "r2"]


async def test_what_was_paid_is_given_out_though_the_budget_is_used_up_since() -> None:
    bench = Budgeted()
    first = await bench.worker()(event())
    bench.spend("1")
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes(first)


async def test_a_call_whose_worker_was_lost_ends_when_no_money_is_left_for_it() -> None:
    bench = Budgeted()
    bench.model.hold = asyncio.Event()
    task = asyncio.create_task(bench.worker()(event()))
    while not bench.model.calls:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    bench.clock.advance(16)
    # The sweep found it.
    attempts = next(iter(bench.journal.attempts.values()))
    await bench.budgets.settle(next(iter(bench.journal.calls)), attempts[0].target.bound.usd)
    bench.spend("0.99")
    cost, answer = await bench.worker("w2")(event())
    assert cost.state == "unknown" and answer.failure.code == "budget_exceeded"
    assert len(bench.model.calls) == 1


async def test_a_call_waits_for_open_ones_and_is_put_off_when_they_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Budgeted("1.2")
    bench.model.hold = asyncio.Event()
    worker = bench.worker()
    task = asyncio.create_task(worker(event()))
    while not bench.model.calls:
        await asyncio.sleep(0)
    second = asyncio.create_task(worker(event("r2")))
    bench.model.hold.set()
    await task
    await second
    assert len(bench.model.calls) == 2, "it was made when the first one had cost less than it might have"
    bench.model.hold = asyncio.Event()
    third = asyncio.create_task(worker(event("r3")))
    while len(bench.model.calls) < 3:
        await asyncio.sleep(0)
    monkeypatch.setattr("processors.complete.purse.PATIENCE_S", 0.05)
    with pytest.raises(NotYetError) as waits:
        await worker(event("r4"))
    assert waits.value.reason == "budget/acme"
    bench.model.hold.set()
    await third


async def test_an_alert_is_told_by_the_call_that_passes_the_threshold_and_again_with_it() -> None:
    bench = Budgeted()
    await bench.worker()(event())
    bench.budget = replace(bench.budget, alert_at=Decimal("0.000001"))
    bench.spend("0")
    outputs = await bench.worker()(event("r2"))
    [alert] = [output for output in outputs if isinstance(output, Alert)]
    assert (alert.kind, alert.subject, alert.labels["scope"]) == ("budget", "acme", "tenant=acme")
    assert alert.value is not None and alert.threshold is not None and alert.value >= alert.threshold
    again = await bench.worker("w2")(event("r2"))
    assert as_bytes(again) == as_bytes(outputs)


async def test_an_expired_request_reserves_nothing() -> None:
    bench = Budgeted()
    bench.clock.advance(400)
    with pytest.raises(RefusedError) as refused:
        await bench.worker()(event())
    assert refused.value.status == "expired" and not bench.budgets.reservations


async def test_without_the_budgets_nothing_is_called() -> None:
    bench = Budgeted()
    bench.budgets.down = True
    with pytest.raises(DependencyDownError):
        await bench.worker()(event())
    assert not bench.model.calls


async def test_a_request_that_no_budget_counts_asks_none() -> None:
    bench = Budgeted()
    bench.budget = replace(bench.budget, only={"tenant": "globex"})
    bench.budgets.down = True
    await bench.worker()(event())


def test_the_worst_case_is_every_attempt_at_the_dearest_deployment() -> None:
    bench = Bench(max_attempts=1)
    one = worst_case(event().record, bench.route, at=ACCEPTED)
    assert worst_case(event().record, replace(bench.route, max_attempts=3), at=ACCEPTED) == 3 * one
    price = bench.route.deployment.price
    dear = replace(bench.route.deployment, name="d2", price=replace(price, prompt=Decimal(30), completion=Decimal(150)))
    assert worst_case(event().record, replace(bench.route, others=(dear,)), at=ACCEPTED) == 10 * one
    checked = event(response_format=ResponseFormat(type="json_object")).record
    assert worst_case(checked, bench.route, at=ACCEPTED) > one
