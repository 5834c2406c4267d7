"""The ledger's rule, its batches and the stage, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.account import Account
from processors.account.batches import Batches
from processors.account.entry import Booked, Entry
from processors.account.ledger import FakeLedger
from schemas.errors import DependencyDownError, PoisonError
from schemas.records import Cost, Usage
from tests.support.costs import AT, correction, cost, entry, incoming

UNKNOWN = cost("a1", "0.90", state="unknown", estimated=True, upper_bound=True)
LATE = correction(UNKNOWN, "0.25", usage=Usage(prompt_tokens=7), incurred_at=AT + timedelta(hours=1))


async def book(*costs: Cost) -> FakeLedger:
    ledger = FakeLedger()
    for one in costs:
        await ledger.record([entry(one)])
    return ledger


async def test_an_event_counts_once_however_often_it_comes() -> None:
    ledger = FakeLedger()
    assert await ledger.record([entry(cost("a1"))]) == ["new"]
    assert await ledger.record([entry(cost("a1")), entry(cost("a1"))]) == ["repeated", "repeated"]
    _, standing = ledger.rows["a1"]
    assert (standing.said.amount_usd, standing.conflicts) == (Decimal("0.25"), 0)


async def test_a_late_settlement_corrects_what_was_booked() -> None:
    _, standing = (await book(UNKNOWN, LATE, UNKNOWN, LATE)).rows["a1"]
    said = standing.said
    assert (said.amount_usd, said.state, said.upper_bound) == (Decimal("0.25"), "done", False)
    assert said.prompt_tokens == 7
    assert said.incurred_at == AT, "the day that it was spent on"
    assert [one.amount_usd for one in standing.history] == [Decimal("0.90"), Decimal("-0.65")]


async def test_a_changed_price_moves_the_amount_and_never_the_outcome() -> None:
    rerate = replace(
        UNKNOWN,
        meta=replace(UNKNOWN.meta, event_id="a rerate"),
        amount_usd=Decimal("0.10"),
        price_source="new prices",
        price_version="settings 1",
        correction="rerate",
        incurred_at=AT + timedelta(days=9),
    )
    for order in permutations((UNKNOWN, LATE, rerate)):
        _, standing = (await book(*order)).rows["a1"]
        said = standing.said
        assert (said.amount_usd, said.state, said.prompt_tokens) == (Decimal("0.35"), "done", 7)
        assert (said.price_source, said.price_version, said.correction) == ("new prices", "settings 1", "rerate")
        assert said.incurred_at == AT


async def test_what_events_told_before_still_counts_as_the_same() -> None:
    told = replace(cost("a1"), price_version="settings 1", error_code="timeout")
    assert [*await FakeLedger().record([entry(cost("a1")), entry(told)])] == ["new", "repeated"]
    searched = replace(told, usage=replace(told.usage, details={"web_searches": 1}))
    assert [*await FakeLedger().record([entry(told), entry(searched)])] == ["new", "conflict"]


async def test_of_two_events_of_one_id_the_dearer_counts_and_both_are_kept() -> None:
    ledger = FakeLedger()
    await ledger.record([entry(cost("a1", "0.25"))])
    assert await ledger.record([entry(cost("a1", "0.40", state="failed"))]) == ["conflict"]
    assert await ledger.record([entry(cost("a1", "0.10"))]) == ["conflict"]
    assert await ledger.record([entry(cost("a1", "0.10"))]) == ["repeated"]
    _, standing = ledger.rows["a1"]
    assert (standing.said.amount_usd, standing.said.state, standing.conflicts) == (Decimal("0.40"), "failed", 2)
    assert len(standing.history) == 3


async def test_the_order_of_events_does_not_matter() -> None:
    events = (UNKNOWN, LATE, replace(UNKNOWN, amount_usd=Decimal("1.00")), replace(LATE, amount_usd=Decimal("-0.7")))
    stands = []
    for order in permutations(events):
        _, standing = (await book(*order)).rows["a1"]
        stands.append((standing.said, standing.conflicts, frozenset(standing.history)))
    assert len(set(stands)) == 1
    assert stands[0][0].amount_usd == Decimal("0.35"), "the dearer of both, for either event"


@given(st.lists(st.sampled_from([UNKNOWN, LATE, cost("a2"), cost("a3", "0.01"), cost("a3", "0.02")]), max_size=30))
def test_the_sum_is_that_of_the_distinct_events(costs: list[Cost]) -> None:
    ledger = asyncio.run(book(*costs))
    dearest: dict[str, Decimal] = {}
    for one in costs:
        dearest[one.meta.event_id] = max(one.amount_usd, dearest.get(one.meta.event_id, Decimal(-9)))
    total = sum((standing.said.amount_usd for _, standing in ledger.rows.values()), Decimal(0))
    assert total == sum(dearest.values(), Decimal(0))


def test_another_release_that_writes_the_same_event_with_other_bytes_is_no_conflict() -> None:
    now = entry(cost("a1", "0.250"))
    assert now.said.digest == entry(replace(cost("a1"), amount_usd=Decimal("0.25"))).said.digest
    assert now.said.digest != entry(cost("a1", team="search")).said.digest


@pytest.mark.parametrize("attempt_id", ["", "x" * 401, "a\0b"])
def test_an_event_that_names_no_attempt_is_poison(attempt_id: str) -> None:
    with pytest.raises(PoisonError, match="attempt_id"):
        entry(cost(attempt_id, request_id="r1"))


def test_what_postgres_takes_in_no_text_is_replaced() -> None:
    assert entry(cost("a1", user="a\0b")).spender.user_id == "a\ufffdb"


class Slow(FakeLedger):
    """Writes one batch at a time, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def record(self, entries: Sequence[Entry]) -> Sequence[Booked]:
        await self.go.wait()
        return await super().record(entries)


async def test_what_waits_at_the_same_time_shares_a_transaction() -> None:
    ledger = Slow()
    batches = Batches(ledger, largest=40)
    waiting = [asyncio.create_task(batches.add(entry(cost(f"a{number}")))) for number in range(100)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting), "nothing is booked before its transaction is"
    ledger.go.set()
    assert await asyncio.gather(*waiting) == ["new"] * 100
    assert ledger.batches == [40, 40, 20]


async def test_an_event_that_can_not_be_kept_fails_alone() -> None:
    ledger = FakeLedger()
    ledger.refused = {"a3"}
    stage = Account(ledger)
    results = await asyncio.gather(
        *(stage(incoming(cost(f"a{number}"))) for number in range(8)), return_exceptions=True
    )
    assert [number for number, result in enumerate(results) if isinstance(result, PoisonError)] == [3]
    assert sorted(ledger.rows) == [f"a{number}" for number in range(8) if number != 3]


async def test_while_postgres_is_away_every_event_waits_and_none_is_lost() -> None:
    ledger, seen = FakeLedger(), list[Booked]()
    stage = Account(ledger, observe=lambda _, booked: seen.append(booked))
    ledger.down = True
    results = await asyncio.gather(*(stage(incoming(cost(f"a{n}"))) for n in range(3)), return_exceptions=True)
    assert all(isinstance(result, DependencyDownError) for result in results)
    ledger.down = False
    assert [await stage(incoming(cost(f"a{n}"))) for n in range(3)] == [[], [], []]
    assert (len(ledger.rows), seen) == (3, ["new"] * 3)


async def test_a_waiter_that_was_cancelled_holds_up_no_other() -> None:
    ledger = Slow()
    batches = Batches(ledger)
    first, second = (asyncio.create_task(batches.add(entry(cost(name)))) for name in ("a1", "a2"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    ledger.go.set()
    assert await second == "new"
    assert await batches.add(entry(cost("a1"))) in ("new", "repeated")
