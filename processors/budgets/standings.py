"""Which budgets are used up, as admission sees them: read now and then, not for every request."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from processors.budgets import sql
from processors.budgets.port import FakeBudgets, period_of
from processors.budgets.rule import Budget, Over, parts_of
from processors.clock import Clock
from processors.postgres import Database

# How old a reading may be: a request that slips through is refused by the stage that pays.
FRESH_S = 2.0


class Exhausted(Protocol):
    """Reads which budgets are used up. One round trip; raises ``DependencyDownError``."""

    async def read(self, budgets: Sequence[Budget], now: datetime) -> frozenset[tuple[str, str]]:
        """Budget and scope of all that have spent their hard limit in the period that ``now`` is in."""
        ...


class Standings:
    """Says whether a request's budgets are used up already; one read at a time, for all who ask meanwhile."""

    def __init__(
        self,
        exhausted: Exhausted,
        budgets: Sequence[Budget],
        *,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exhausted, self._clock, self._monotonic = exhausted, clock, monotonic
        self._budgets = tuple(budget for budget in budgets if budget.hard_usd is not None)
        self._used_up: frozenset[tuple[str, str]] = frozenset()
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    def counts(self, who: Mapping[str, str]) -> bool:
        """Whether any hard limit counts this money. Does not block."""
        return bool(parts_of(self._budgets, who))

    async def over(self, who: Mapping[str, str]) -> Over | None:
        """The budget that is used up, if one is. Blocks for a read every ``FRESH_S``; raises as it does."""
        parts = parts_of(self._budgets, who)
        if not parts:
            return None
        now = self._clock.now()
        async with self._reading:
            if self._monotonic() - self._read_at >= FRESH_S:
                self._used_up = await self._exhausted.read(self._budgets, now)
                self._read_at = self._monotonic()
        for part in parts:
            if (part.budget.name, part.scope) in self._used_up:
                return Over(part.budget.name, period_of(part.budget.period, now)[1])
        return None


class PostgresExhausted:
    """Reads the table ``budgets``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, budgets: Sequence[Budget], now: datetime) -> frozenset[tuple[str, str]]:
        parameters = {
            "budgets": [budget.name for budget in budgets],
            "starts": [period_of(budget.period, now)[0] for budget in budgets],
            "limits": [budget.hard_usd for budget in budgets],
        }
        return frozenset((budget, scope) for budget, scope in await self._database.execute(sql.EXHAUSTED, parameters))


class FakeExhausted:
    """Reads budgets in memory."""

    def __init__(self, budgets: FakeBudgets) -> None:
        self._budgets = budgets
        self.reads = 0

    async def read(self, budgets: Sequence[Budget], now: datetime) -> frozenset[tuple[str, str]]:
        self.reads += 1
        limits = {budget.name: (budget.hard_usd or Decimal(0), period_of(budget.period, now)[0]) for budget in budgets}
        return frozenset(
            (name, scope)
            for (name, scope, start), standing in self._budgets.standings.items()
            if name in limits and start == limits[name][1] and standing.spent >= limits[name][0]
        )
