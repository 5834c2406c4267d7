"""What a mirror may spend: the same rules in Postgres and in memory."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from processors.postgres import Database
from schemas.errors import FencedError
from streams.mirroring.days import Day, Days, FakeDays, PostgresDays
from streams.replay.run import Run, RunConfig
from streams.replay.runs import PostgresRuns

pytestmark = pytest.mark.stack
LIMIT = Decimal(10)


@dataclass
class Kept:
    """Days of a mirror, and how a test says which one it is and who leads it."""

    days: Days
    database: Database | None = None
    run: str = ""

    def on(self, day: date) -> Days:
        if self.database is None:
            assert isinstance(self.days, FakeDays)
            self.days.day = day
            return self.days
        today: Any = f"DATE '{day}'"
        self.days = PostgresDays(self.database, self.run, epoch=1, limit_usd=LIMIT, today=today)
        return self.days

    async def taken_away(self) -> None:
        if self.database is None:
            assert isinstance(self.days, FakeDays)
            self.days.fenced = True
            return
        await self.database.execute("UPDATE replay_runs SET epoch = 2 WHERE run = %(run)s", {"run": self.run})


@pytest.fixture(params=["postgres", "memory"])
async def kept(request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    if request.param == "memory":
        yield Kept(FakeDays(LIMIT))
        return
    database = await Database.open(request.getfixturevalue("stack").postgres_dsn)
    run, runs = secrets.token_hex(4), PostgresRuns(database)
    names: dict[str, Any] = {"run": run, "name": run, "lane": f"replay-{run}"}
    config = RunConfig(mirror=True, max_cost_per_day_usd=LIMIT)
    made = Run(**names, source_lane="live", target="shadow", stages=("complete",), config=config, code_version="1")
    await runs.create(made, [])
    assert await runs.take(run, owner="a test") == 1
    yield Kept(PostgresDays(database, run, epoch=1, limit_usd=LIMIT), database, run)
    await runs.delete(made)
    assert await database.execute("SELECT FROM mirror_days WHERE run = %(run)s", {"run": run}) == []
    await database.close()


async def test_a_day_s_budget_holds_over_open_settled_and_repeated_events(kept: Kept) -> None:
    first, second = date(2026, 1, 1), date(2026, 1, 2)
    days = kept.on(first)
    assert (await days.hold("a", Decimal(6))).found
    assert not (await days.hold("b", Decimal(5))).found
    assert (await days.hold("b", Decimal(4))).found
    assert (await days.hold("a", Decimal(6))).found, "it has its room already"
    await days.settle("a", Decimal("1.5"))
    await days.settle("a", Decimal("1.5"))
    assert await days.today() == Day(day=first, spent_usd=Decimal("1.5"), held_usd=Decimal(4), calls=2)
    assert not (await days.hold("c", Decimal("4.6"))).found
    await days.forget()
    assert (await days.hold("c", Decimal("4.5"))).found
    await days.settle("c", Decimal(4))

    days = kept.on(second)
    assert await days.today() == Day(day=second)
    assert not (await days.hold("d", Decimal("10.1"))).found
    # Open since yesterday: another process finishes it, and pays today.
    assert (await days.hold("b", Decimal(4))).found
    assert not (await days.hold("d", Decimal(7))).found
    await days.settle("b", Decimal(3))
    assert await days.today() == Day(day=second, spent_usd=Decimal(3), calls=1)
    await days.settle("nothing held", Decimal("0.5"))
    await days.settle("nothing held", Decimal("0.5"))
    assert await days.today() == Day(day=second, spent_usd=Decimal("3.5"), calls=2)
    assert await kept.on(first).today() == Day(day=first, spent_usd=Decimal("5.5"), calls=2)

    await kept.taken_away()
    with pytest.raises(FencedError):
        await days.hold("e", Decimal(1))
    # What was paid is booked all the same.
    assert (await kept.on(second).today()).spent_usd == Decimal("3.5")
