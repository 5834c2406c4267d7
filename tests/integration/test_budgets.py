"""Budgets on a real Postgres: parallel workers never overspend, and nothing leaks when one of them is killed."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from processors.budgets.postgres import PostgresBudgets
from processors.budgets.rule import Budget, Full, Held, Over, Part
from processors.complete.tasks import sample_key
from processors.journal import CallKey, Offer
from processors.journal.postgres import PostgresJournal
from processors.postgres import Database
from tests.support.commands import Commands
from tests.support.stack import TestStack
from tests.support.targets import target

pytestmark = pytest.mark.stack

WORST = Decimal("0.03")
HARD = Decimal("0.30")


@pytest.fixture
async def database(stack: TestStack) -> AsyncIterator[Database]:
    opened = await Database.open(stack.postgres_dsn, max_size=10)
    yield opened
    await opened.close()


def rules(lane: str) -> tuple[Budget, Budget]:
    return (
        Budget(name=f"{lane}-all", period="month", only={}, hard_usd=HARD),
        Budget(name=f"{lane}-user", period="day", only={"user": "*"}, hard_usd=Decimal(100), soft_usd=Decimal("0.1")),
    )


def parts(budgets: tuple[Budget, Budget]) -> tuple[Part, Part]:
    return Part(budgets[0], ""), Part(budgets[1], "user=u1")


async def standing(database: Database, budget: str) -> tuple[Decimal, Decimal]:
    [row] = await database.execute("SELECT spent, reserved FROM budgets WHERE budget = %s", (budget,))
    return row[0], row[1]


async def test_eight_workers_spend_no_more_than_the_budget_and_nearly_all_of_it(database: Database, lane: str) -> None:
    budgets = rules(lane)
    workers = [PostgresBudgets(database, budgets) for _ in range(8)]
    spent, most, refused = Decimal(0), Decimal(0), 0
    told: list[str] = []

    async def work(worker: PostgresBudgets, chance: random.Random) -> None:
        nonlocal spent, most, refused
        while True:
            call = str(uuid.UUID(int=chance.getrandbits(128)))
            outcome = await worker.reserve(call, parts(budgets), WORST, hold_s=60)
            if isinstance(outcome, Over):
                refused += 1
                return
            if isinstance(outcome, Full):
                await asyncio.sleep(0.005)
                continue
            cost = Decimal(chance.randrange(1, 31)) / 1000
            spent += cost
            told.extend(one.threshold for one in await worker.settle(call, cost))
            held = await standing(database, budgets[0].name)
            most = max(most, held[0] + held[1])

    await asyncio.gather(*(work(worker, random.Random(n)) for n, worker in enumerate(workers)))
    assert refused == 8 and most <= HARD
    assert HARD - WORST < spent <= HARD
    assert await standing(database, budgets[0].name) == (spent, 0)
    assert await standing(database, budgets[1].name) == (spent, 0)
    assert sorted(told) == ["80%", "soft limit"]


async def test_a_call_that_comes_again_reserves_and_is_settled_once(database: Database, lane: str) -> None:
    budgets = rules(lane)
    worker, call = PostgresBudgets(database, budgets), str(uuid.uuid4())
    outcomes = await asyncio.gather(*(worker.reserve(call, parts(budgets), WORST, hold_s=60) for _ in range(6)))
    assert outcomes == [Held()] * 6
    assert await standing(database, budgets[0].name) == (0, WORST)
    cost = Decimal("0.26")
    told = await asyncio.gather(*(worker.settle(call, cost) for _ in range(6)))
    assert await standing(database, budgets[0].name) == (cost, 0)
    assert all(each == told[0] for each in told) and [one.threshold for one in told[0]] == ["80%", "soft limit"]
    assert isinstance(told[0][0].limit_usd, Decimal) and told[0][0].at.tzinfo is not None
    await worker.settle(call, Decimal("0.2"))
    assert await standing(database, budgets[0].name) == (Decimal("0.2"), 0)
    assert await worker.reserve(call, parts(budgets), WORST, hold_s=60) == Held()
    assert await standing(database, budgets[0].name) == (0, WORST), "it is open again, in place of what it was"


async def test_asking_for_more_raises_what_is_held_where_it_fits_and_says_where_it_does_not(
    database: Database, lane: str
) -> None:
    budgets = rules(lane)
    worker, call, other = PostgresBudgets(database, budgets), str(uuid.uuid4()), str(uuid.uuid4())
    for asked, held in (("0.1", "0.1"), ("0.2", "0.2"), ("0.15", "0.2")):
        assert await worker.reserve(call, parts(budgets), Decimal(asked), hold_s=60) == Held()
        assert [await standing(database, one.name) for one in budgets] == [(0, Decimal(held))] * 2
    assert await worker.reserve(other, parts(budgets), Decimal("0.1"), hold_s=60) == Held()
    assert await worker.reserve(call, parts(budgets), HARD, hold_s=60) == Held(short=Full(budgets[0].name))
    await worker.settle(other, Decimal("0.1"))
    outcome = await worker.reserve(call, parts(budgets), HARD, hold_s=60)
    assert isinstance(outcome, Held) and isinstance(outcome.short, Over) and outcome.short.until > datetime.now(UTC)
    assert await standing(database, budgets[0].name) == (Decimal("0.1"), Decimal("0.2"))
    await worker.settle(call, Decimal("0.05"))
    assert await standing(database, budgets[0].name) == (Decimal("0.15"), 0)


async def test_nothing_is_reserved_where_one_of_several_budgets_has_no_room(database: Database, lane: str) -> None:
    budgets = rules(lane)
    worker = PostgresBudgets(database, budgets)
    over = await worker.reserve(str(uuid.uuid4()), parts(budgets), Decimal(1), hold_s=60)
    assert isinstance(over, Over) and over.until > datetime.now(UTC)
    assert await standing(database, budgets[1].name) == (0, 0)


async def test_what_a_killed_worker_reserved_is_settled_from_the_journal(database: Database, lane: str) -> None:
    budgets = rules(lane)
    worker = PostgresBudgets(database, budgets)
    never = str(uuid.uuid4())
    await worker.reserve(never, parts(budgets), WORST, hold_s=0)
    lost = await claimed(database, lane, "r1", lease_s=0.0)
    alive = await claimed(database, lane, "r2", lease_s=60.0)
    for call in (lost, alive):
        await worker.reserve(call, parts(budgets), WORST, hold_s=0)
    kept = str(uuid.uuid4())
    await worker.reserve(kept, parts(budgets), WORST, hold_s=60)
    # Another test's may be among them.
    while await PostgresBudgets(database, budgets).sweep():
        pass
    rows = await database.execute(
        "SELECT call_id::text, state, amount FROM budget_reservations WHERE budget = %s", (budgets[0].name,)
    )
    assert {call: (state, amount) for call, state, amount in rows} == {
        never: ("settled", Decimal(0)),
        lost: ("settled", Decimal("0.02")),
        alive: ("open", WORST),
        kept: ("open", WORST),
    }
    assert await standing(database, budgets[0].name) == (Decimal("0.02"), 2 * WORST)
    # Its event comes again, and the call is made after all.
    assert await worker.reserve(lost, parts(budgets), WORST, hold_s=60) == Held()
    await worker.settle(lost, Decimal("0.025"))
    assert await standing(database, budgets[0].name) == (Decimal("0.025"), 2 * WORST)


async def test_what_a_killed_fan_out_reserved_is_settled_at_the_cost_of_its_samples(
    database: Database, lane: str
) -> None:
    budgets = rules(lane)
    worker = PostgresBudgets(database, budgets)
    lost, alive = (CallKey(tenant="acme", lane=lane, run="", request_id=name) for name in ("r1", "r2"))
    ended = [await claimed(database, lane, "r1", lease_s=0.0, sample=number) for number in range(2)]
    calling = [await claimed(database, lane, "r2", lease_s=60.0 * number, sample=number) for number in range(2)]
    # The settings may have named fewer of them in between.
    await worker.reserve(lost.call_id, parts(budgets), WORST, hold_s=0, samples=ended)
    await worker.reserve(lost.call_id, parts(budgets), WORST, hold_s=0, samples=ended[:1])
    await worker.reserve(alive.call_id, parts(budgets), WORST, hold_s=0, samples=calling)
    while await PostgresBudgets(database, budgets).sweep():
        pass
    assert await standing(database, budgets[0].name) == (Decimal("0.04"), WORST)
    await worker.settle(alive.call_id, Decimal("0.01"))
    assert await standing(database, budgets[0].name) == (Decimal("0.05"), 0)


async def claimed(database: Database, lane: str, request_id: str, *, lease_s: float, sample: int | None = None) -> str:
    """A call, or a sample's, with an open attempt of at most 2 cents."""
    key = CallKey(tenant="acme", lane=lane, run="", request_id=request_id)
    if sample is not None:
        key = sample_key(key, sample)
    offer = Offer(key=key, input_hash="h", input=b"i", target=target("0.02"), max_attempts=3)
    await PostgresJournal(database, lease_s=lease_s).claim(offer, owner="w")
    return key.call_id


def test_the_command_shows_what_is_left_and_budgets_that_nobody_used(
    stack: TestStack, lane: str, tmp_path: Path
) -> None:
    commands = Commands(stack, lane, tmp_path, ("costs",))
    commands.config.write_text(
        commands.config.read_text()
        + f'\n[budgets.{lane}-all]\nperiod = "month"\nhard_usd = "0.30"\n'
        + f'\n[budgets.{lane}-user]\nperiod = "day"\nuser = "*"\nhard_usd = 100\nsoft_usd = "0.1"\n'
        + f'\n[budgets.{lane}-idle]\nperiod = "day"\ntenant = "acme"\nsoft_usd = 5\n'
    )

    async def spend() -> None:
        database = await Database.open(stack.postgres_dsn)
        try:
            worker = PostgresBudgets(database, rules(lane))
            await worker.reserve(str(uuid.uuid4()), parts(rules(lane)), WORST, hold_s=60)
            call = str(uuid.uuid4())
            await worker.reserve(call, parts(rules(lane)), Decimal("0.2"), hold_s=60)
            await worker.settle(call, Decimal("0.15"))
        finally:
            await database.close()

    asyncio.run(spend())
    ran = commands.run("budgets", "--json")
    assert ran.code == 0, ran.err
    [given] = ran.objects
    by_name = {one["budget"].removeprefix(f"{lane}-"): one for one in given["budgets"]}
    amounts = ("limit_usd", "spent_usd", "reserved_usd", "left_usd", "state")
    assert [by_name["all"][name] for name in amounts] == ["0.30", "0.15", "0.03", "0.12", "ok"]
    assert [by_name["user"][name] for name in amounts] == ["100.00", "0.15", "0.03", "99.82", "alert"]
    assert [by_name["idle"][name] for name in amounts] == ["5.00", "0.00", "0.00", "5.00", "ok"]
    assert (by_name["user"]["scope"], by_name["idle"]["scope"]) == ("user=u1", "tenant=acme")
    shown = commands.run("budgets")
    assert shown.code == 0 and f"{lane}-all" in shown.out and "0.12" in shown.out
