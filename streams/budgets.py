"""Every budget's standing in its present period: what ``headrace budgets`` shows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from processors.budgets import sql
from processors.budgets.port import period_of
from processors.budgets.rule import EACH, Budget
from processors.postgres import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A budget and scope in its present period. Amounts in US dollars."""

    budget: Budget
    scope: str
    period_start: datetime
    period_end: datetime
    spent: Decimal
    reserved: Decimal

    @property
    def limit(self) -> Decimal | None:
        """The hard limit, or the soft one where there is no hard one."""
        return self.budget.hard_usd if self.budget.hard_usd is not None else self.budget.soft_usd

    @property
    def left(self) -> Decimal:
        """What new calls may still reserve; below zero where a soft limit alone was passed."""
        return (self.limit or Decimal(0)) - self.spent - self.reserved

    @property
    def state(self) -> str:
        """``ok``, ``alert`` (a threshold was passed) or ``used up`` (the hard limit is spent)."""
        if self.budget.hard_usd is not None and self.spent >= self.budget.hard_usd:
            return "used up"
        return "alert" if any(self.spent >= limit for _, limit in self.budget.thresholds()) else "ok"


def standings(dsn: str, budgets: Sequence[Budget]) -> list[Shown]:
    """All budgets, by name; of one for each value those that spent or reserved something, the dearest first.

    Blocks on Postgres; raises ``DependencyDownError``.
    """
    return asyncio.run(_read(dsn, budgets))


async def _read(dsn: str, budgets: Sequence[Budget]) -> list[Shown]:
    database = await Database.open(dsn, max_size=1)
    try:
        now = await database.now()
        periods = {budget.name: period_of(budget.period, now) for budget in budgets}
        parameters = {"budgets": list(periods), "starts": [start for start, _ in periods.values()]}
        rows = await database.execute(sql.STANDINGS, parameters) if budgets else []
    finally:
        await database.close()
    found: list[Shown] = []
    for budget in budgets:
        start, end = periods[budget.name]
        mine = [row for row in rows if row[0] == budget.name and row[2].astimezone(UTC) == start]
        if not mine and EACH not in budget.only.values():
            mine = [(budget.name, budget.scope(budget.only) or "", start, Decimal(0), Decimal(0))]
        found += [
            Shown(budget=budget, scope=scope, period_start=start, period_end=end, spent=spent, reserved=reserved)
            for _, scope, _, spent, reserved in mine
        ]
    return found
