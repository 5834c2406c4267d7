"""Budgets: whose money they count, what may be reserved, and what is told."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.budgets.port import FakeBudgets, period_of
from processors.budgets.rule import EACH, Budget, Full, Held, Over, Part, parts_of
from processors.clock import FakeClock

DAY = Budget(name="daily", period="day", only={}, hard_usd=Decimal(10), soft_usd=Decimal(5))
WHOLE = (Part(DAY, ""),)


def test_a_budget_counts_what_it_names_and_each_value_by_itself() -> None:
    acme = Budget(name="acme", period="day", only={"tenant": "acme"}, hard_usd=Decimal(1))
    users = Budget(name="users", period="day", only={"tenant": "acme", "user": EACH}, hard_usd=Decimal(1))
    who = {"tenant": "acme", "user": "u1", "team": ""}
    assert [(part.budget.name, part.scope) for part in parts_of([users, DAY, acme], who)] == [
        ("acme", "tenant=acme"),
        ("daily", ""),
        ("users", "tenant=acme,user=u1"),
    ]
    assert [part.budget.name for part in parts_of([users, acme], {"tenant": "acme", "user": ""})] == ["acme"]
    assert not parts_of([users, acme], {"tenant": "globex", "user": "u1"})


def test_days_and_months_are_utc_and_months_have_their_own_length() -> None:
    at = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
    assert period_of("day", at) == (datetime(2026, 2, 28, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
    assert period_of("month", at) == (datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
    december = datetime(2026, 12, 31, tzinfo=UTC)
    assert period_of("month", december)[1] == datetime(2027, 1, 1, tzinfo=UTC)


async def test_a_call_waits_while_others_may_spend_the_rest_and_is_refused_when_they_have() -> None:
    budgets = FakeBudgets(FakeClock())
    assert await budgets.reserve("a", WHOLE, Decimal(6), hold_s=9) == Held()
    assert await budgets.reserve("b", WHOLE, Decimal(6), hold_s=9) == Full("daily")
    await budgets.settle("a", Decimal(3))
    assert await budgets.reserve("b", WHOLE, Decimal(6), hold_s=9) == Held()
    await budgets.settle("b", Decimal(6))
    over = await budgets.reserve("c", WHOLE, Decimal(2), hold_s=9)
    assert over == Over("daily", datetime(2026, 1, 2, tzinfo=UTC))
    assert await budgets.reserve("d", WHOLE, Decimal(1), hold_s=9) == Held(), "a cheaper one still fits"


async def test_asking_for_more_raises_what_is_held_where_it_fits_and_says_where_it_does_not() -> None:
    budgets = FakeBudgets(FakeClock())
    assert await budgets.reserve("a", WHOLE, Decimal(2), hold_s=9) == Held()
    assert await budgets.reserve("a", WHOLE, Decimal(4), hold_s=9) == Held()
    assert await budgets.reserve("a", WHOLE, Decimal(3), hold_s=9) == Held(), "never lowered"
    await budgets.reserve("b", WHOLE, Decimal(5), hold_s=9)
    assert await budgets.reserve("a", WHOLE, Decimal(6), hold_s=9) == Held(short=Full("daily"))
    await budgets.settle("b", Decimal(5))
    over = Over("daily", datetime(2026, 1, 2, tzinfo=UTC))
    assert await budgets.reserve("a", WHOLE, Decimal(6), hold_s=9) == Held(short=over)
    [standing] = budgets.standings.values()
    assert (standing.spent, standing.reserved) == (5, 4)
    await budgets.settle("a", Decimal(1))
    [standing] = budgets.standings.values()
    assert (standing.spent, standing.reserved) == (6, 0)


async def test_a_call_reserves_once_and_is_settled_once_however_often_it_comes() -> None:
    budgets = FakeBudgets(FakeClock())
    for _ in range(3):
        assert await budgets.reserve("a", WHOLE, Decimal(8), hold_s=9) == Held()
    [standing] = budgets.standings.values()
    assert standing.reserved == 8
    told = [await budgets.settle("a", Decimal(6)) for _ in range(3)]
    [standing] = budgets.standings.values()
    assert (standing.spent, standing.reserved) == (6, 0)
    assert [[one.threshold for one in each] for each in told] == [["soft limit"]] * 3
    assert await budgets.reserve("a", WHOLE, Decimal(9), hold_s=9) == Held(), "its own spend is not in its way"
    await budgets.settle("a", Decimal(6))
    [standing] = budgets.standings.values()
    assert (standing.spent, standing.reserved) == (6, 0)


async def test_each_threshold_is_told_by_the_call_that_passes_it() -> None:
    budgets = FakeBudgets(FakeClock())
    told = []
    for number in range(10):
        await budgets.reserve(str(number), WHOLE, Decimal(1), hold_s=9)
        told += [(one.threshold, one.spent_usd) for one in await budgets.settle(str(number), Decimal(1))]
    assert told == [("soft limit", Decimal(5)), ("80%", Decimal(8))]


async def test_a_budget_begins_anew_with_its_period() -> None:
    clock = FakeClock()
    budgets = FakeBudgets(clock)
    await budgets.reserve("a", WHOLE, Decimal(10), hold_s=9)
    await budgets.settle("a", Decimal(10))
    assert isinstance(await budgets.reserve("b", WHOLE, Decimal(1), hold_s=9), Over)
    clock.advance(24 * 3600)
    assert await budgets.reserve("b", WHOLE, Decimal(1), hold_s=9) == Held()


@given(
    calls=st.lists(
        st.tuples(
            st.sampled_from("abcdefgh"), st.sampled_from(["reserve", "settle"]), st.integers(1, 6), st.integers(0, 100)
        ),
        max_size=60,
    )
)
async def test_spent_and_reserved_never_exceed_the_hard_limit(calls: list[tuple[str, str, int, int]]) -> None:
    budgets = FakeBudgets(FakeClock())
    reserved: dict[str, Decimal] = {}
    for call, move, worst, share in calls:
        if move == "reserve" and call not in reserved:
            if await budgets.reserve(call, WHOLE, Decimal(worst), hold_s=9) == Held():
                reserved[call] = Decimal(worst)
        elif move == "settle" and call in reserved:
            # A call costs at most what it reserved.
            await budgets.settle(call, reserved.pop(call) * share / 100)
        for standing in budgets.standings.values():
            assert standing.spent + standing.reserved <= 10 and standing.reserved >= 0


def test_the_share_is_of_the_soft_limit_where_there_is_no_hard_one() -> None:
    soft = Budget(name="b", period="day", only={}, soft_usd=Decimal(100), alert_at=Decimal("0.75"))
    assert soft.thresholds() == (("75%", Decimal(75)), ("soft limit", Decimal(100)))


@pytest.mark.parametrize(("share", "shown"), [("0.8", "80%"), ("1", "100%"), ("0.125", "12.5%")])
def test_a_share_is_shown_as_a_percentage(share: str, shown: str) -> None:
    budget = Budget(name="b", period="day", only={}, hard_usd=Decimal(1), alert_at=Decimal(share))
    assert budget.thresholds()[0][0] == shown
