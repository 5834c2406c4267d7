"""What limits mean to a request: decided once, whatever is delivered again, and never charged for what is free."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from processors.admit.buckets import FakeBuckets
from processors.admit.limiter import Charged, FakeCharger, Limiter
from processors.admit.limits import LimitPolicy, Rates, TierLimits, per_minute
from processors.admit.policy import AdmitPolicy
from processors.budgets.port import FakeBudgets, period_of
from processors.budgets.rule import Budget, Standing
from processors.budgets.standings import FakeExhausted, Standings
from processors.clock import FakeClock
from processors.ruling import UNASKED
from schemas.errors import NotYetError
from schemas.records import Admitted, Answer
from tests.support.admission import CODEC, Bench, request

FREE = AdmitPolicy(tenants={"default": "free"})


def bench(*, queue: bool = False, wide: bool = False) -> Bench:
    clock = FakeClock()
    tier = TierLimits(
        tenant=Rates(requests=per_minute(2)), together=Rates(requests=per_minute(2)) if wide else Rates(), queue=queue
    )
    limiter = Limiter(FakeBuckets(clock), monotonic=lambda: clock.now().timestamp())
    return Bench(policy=FREE, clock=clock, limits=LimitPolicy(tiers={"free": tier}), charger=limiter)


def asked(number: int, **fields: Any) -> Any:
    return request(meta={"request_id": f"r{number}"}, **fields)


async def test_what_is_over_the_limit_is_rejected_with_the_time_to_come_again() -> None:
    door = bench()
    for number in range(2):
        await door.admitted(asked(number))
    answer = await door.refusal(asked(2))
    assert answer.status == "rejected" and answer.failure is not None
    assert (answer.failure.code, answer.failure.retryable) == ("rate_limited", True)
    assert answer.failure.retry_after_s == pytest.approx(30, abs=0.1)
    assert answer.tier == "" and "tenant.requests" in answer.failure.message


async def test_a_request_that_comes_again_gets_the_same_and_is_charged_nothing() -> None:
    door = bench()
    first = await door.admitted(asked(0))
    assert [await door.admitted(asked(0)) for _ in range(3)] == [first] * 3
    await door.admitted(asked(1))
    await door.refusal(asked(2))
    door.clock.advance(120)
    assert (await door.refusal(asked(2))).failure is not None, "there is room now, but it was rejected"
    assert await door.admitted(asked(0)) == first
    await door.admitted(asked(3))
    await door.admitted(asked(4))
    await door.refusal(asked(5))


async def test_a_request_that_was_admitted_before_there_were_limits_goes_on() -> None:
    door = bench()
    before = replace(door, limits=LimitPolicy(tiers={}))
    await before.admitted(asked(0))
    assert set(door.idempotency.rulings.values()) == {UNASKED}
    for number in (1, 2):
        await door.admitted(asked(number))
    await door.admitted(asked(0))


async def test_what_can_not_be_admitted_is_charged_nothing() -> None:
    door = bench()
    await door.refusal(asked(0, priority="highest"))
    await door.refusal(asked(1, ttl_ms=1000), late_s=5)
    for number in (2, 3):
        await door.admitted(asked(number))


async def test_a_copy_of_an_answer_costs_nothing() -> None:
    door = bench()
    original = await door.admitted(asked(0, idempotency_key="k"))
    final = Answer(meta=original.meta, status="answered")
    await door.finality.claim(final, CODEC.encode(final))
    for number in (1, 2, 3):
        [copy] = await door.admit(asked(number, idempotency_key="k"))
        assert isinstance(copy, Answer) and copy.duplicate_of == "r0"
    await door.admitted(asked(4))


@pytest.mark.parametrize("wide", [False, True])
async def test_a_tier_that_queues_lets_its_requests_in_when_they_fit(wide: bool) -> None:
    door = bench(queue=True, wide=wide)
    for number in (0, 1):
        await door.admitted(asked(number))
    waits = [await waiting(door, number) for number in (2, 3)]
    assert waits == [pytest.approx(30, abs=0.5), pytest.approx(60, abs=0.5)]
    assert await waiting(door, 2) == pytest.approx(waits[0], abs=0.1), "a redelivery keeps its place"
    door.clock.advance(31)
    await door.admitted(asked(2))
    assert await waiting(door, 3) == pytest.approx(29, abs=0.5)
    assert await waiting(door, 4) == pytest.approx(59, abs=0.5)
    await door.admitted(asked(2))
    door.clock.advance(30)
    await door.admitted(asked(3))


async def waiting(door: Bench, number: int) -> float:
    with pytest.raises(NotYetError) as waits:
        await door.admit(asked(number))
    assert waits.value.reason == "limit/tenant.requests" and waits.value.expires_at is not None
    return waits.value.wait_s


async def test_whoever_would_wait_for_longer_than_its_time_to_live_is_told_at_once() -> None:
    door = bench(queue=True)
    for number in (0, 1):
        await door.admitted(asked(number))
    answer = await door.refusal(asked(2, ttl_ms=20_000))
    assert answer.failure is not None and answer.failure.retry_after_s == pytest.approx(30, abs=0.1)


async def test_a_queued_request_that_comes_back_too_late_is_expired() -> None:
    door = bench(queue=True)
    for number in (0, 1):
        await door.admitted(asked(number))
    await waiting(door, 2)
    door.clock.advance(timedelta(days=1).total_seconds())
    assert (await door.refusal(asked(2))).status == "expired"


async def test_a_request_that_never_fits_is_not_worth_sending_again() -> None:
    door = Bench(policy=FREE, charger=FakeCharger(Charged(verdict="rejected", by="tenant.tokens", wait_s=None)))
    answer = await door.refusal(asked(0))
    assert answer.failure is not None
    assert (answer.failure.code, answer.failure.retryable) == ("rate_limit_too_small", False)


async def test_of_two_deliveries_at_once_one_is_charged() -> None:
    charger = FakeCharger()
    door = Bench(policy=FREE, charger=charger)
    slow = door.idempotency.rule

    async def late(claimant: Any, ruling: Any, *, was: Any) -> Any:
        # The other delivery is a step ahead.
        await slow(claimant, replace(ruling), was=was)
        return await slow(claimant, ruling, was=was)

    door.idempotency.rule = late  # type: ignore[method-assign]
    [admitted] = await door.admit(asked(0))
    assert isinstance(admitted, Admitted) and len(charger.given_back) == 1


def budgeted(spent: str) -> tuple[Bench, FakeExhausted]:
    """A door to a tenant with a budget of 10 dollars."""
    clock, budget = FakeClock(), Budget(name="daily", period="day", only={"tenant": "default"}, hard_usd=Decimal(10))
    budgets = FakeBudgets(clock)
    start, end = period_of("day", clock.now())
    standing = Standing(period_start=start, period_end=end, spent=Decimal(spent))
    budgets.standings["daily", "tenant=default", start] = standing
    exhausted = FakeExhausted(budgets)
    standings = Standings(exhausted, (budget,), clock=clock, monotonic=lambda: clock.now().timestamp())
    return Bench(clock=clock, standings=standings), exhausted


async def test_a_request_whose_budget_is_used_up_is_refused_at_the_door() -> None:
    door, _ = budgeted("10")
    door.clock.advance(3600)
    answer = await door.refusal(asked(0))
    assert answer.failure is not None and answer.status == "rejected"
    assert (answer.failure.code, answer.failure.retryable) == ("budget_exceeded", True)
    assert answer.failure.retry_after_s == 23 * 3600
    door.clock.advance(23 * 3600)
    assert (await door.refusal(asked(0))).failure is not None, "its decision stands"
    await door.admitted(asked(1))


async def test_budgets_are_read_now_and_then_and_what_is_not_used_up_goes_on() -> None:
    door, exhausted = budgeted("9.99")
    for number in range(20):
        await door.admitted(asked(number))
    assert exhausted.reads == 1
    door.clock.advance(3)
    await door.admitted(asked(20))
    assert exhausted.reads == 2
