"""A worker that is killed between reserving and settling leaks no budget: the next one settles, or the sweep does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from processors.budgets.postgres import PostgresBudgets
from processors.journal import CallKey, PostgresJournal
from processors.postgres import Database
from tests.provider.process import ProviderProcess
from tests.support.complete_worker import die, run
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


@pytest.fixture
async def database(stack: TestStack) -> AsyncIterator[Database]:
    opened = await Database.open(stack.postgres_dsn, max_size=2)
    yield opened
    await opened.close()


async def spent(database: Database, lane: str) -> Decimal:
    """What the journal says that the request cost, or may have cost."""
    rows = await PostgresJournal(database).attempts_of(CallKey(tenant="acme", lane=lane, run="", request_id=lane))
    return sum((row.target.bound.usd if row.cost_usd is None else row.cost_usd for row in rows), Decimal(0))


@pytest.mark.parametrize("failpoint", ["before_call", "after_reply", "after_finish"])
async def test_a_killed_workers_reservation_is_settled_by_the_sweep_and_by_the_next_worker(
    stack: TestStack, provider: ProviderProcess, database: Database, lane: str, failpoint: str
) -> None:
    plan = {"dsn": stack.postgres_dsn, "base_url": provider.base_url, "lane": lane, "text": "why?", "lease_s": 0.6}
    plan |= {"budget": lane, "price": "100", "hold_s": 0.1}
    await die(plan, failpoint)

    async def standing() -> tuple[Decimal, Decimal]:
        [row] = await database.execute("SELECT spent, reserved FROM budgets WHERE budget = %s", (lane,))
        return row[0], row[1]

    assert (await standing())[1] > 0, "it was reserved when the worker died"
    budgets = PostgresBudgets(database, ())

    # Its lease has to end first.
    async with asyncio.timeout(60):
        while (await standing())[1] > 0:
            await budgets.sweep(renew_s=0.1)
            await asyncio.sleep(0.1)
    booked = await spent(database, lane)
    assert booked > 0 and await standing() == (booked, 0)
    await run(plan)
    paid = await spent(database, lane)
    assert await standing() == (paid, 0)
    assert (paid == booked) == (failpoint == "after_finish")
