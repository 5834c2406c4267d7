"""What the stage that pays asks of budgets, and budgets in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from processors.budgets.rule import Crossed, Held, Part, Period, Reserved, Standing, crossed, decide
from processors.clock import Clock
from schemas.errors import DependencyDownError


class Budgets(Protocol):
    """Keeps what was spent and reserved. Every method is one transaction; raises ``DependencyDownError``."""

    async def reserve(
        self, call_id: str, parts: Sequence[Part], amount: Decimal, *, hold_s: float, samples: Sequence[str] = ()
    ) -> Reserved:
        """Reserve the most that a call can cost in all of its budgets, or in none of them.

        A call reserves once: asking again renews the time after which a reservation counts as left behind, and asking
        for more raises it where that fits: ``Held.short`` says why it does not, and what was held stays. One that was
        settled is opened again, and what it was settled at given back first. ``samples``: the calls that spend what
        this one reserves; what was left behind is settled at the cost of all of them.
        """
        ...

    async def settle(self, call_id: str, spent: Decimal) -> Sequence[Crossed]:
        """Replace a call's reservation by what was spent; the thresholds that this passed.

        Settling again corrects the amount, and tells the same thresholds. Nothing is done for a call that reserved
        nothing.
        """
        ...


def period_of(period: Period, now: datetime) -> tuple[datetime, datetime]:
    """The day or month (UTC) that ``now`` is in: its first moment, and that of the next one."""
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return start, start + timedelta(days=1)
    start = start.replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)


class FakeBudgets:
    """Budgets in memory, with the same rules."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.down = False
        self.standings: dict[tuple[str, str, datetime], Standing] = {}
        # By call, budget and scope: the period, whether it is open, and the amount.
        self.reservations: dict[tuple[str, str, str], tuple[datetime, bool, Decimal]] = {}
        self.crossed: dict[str, list[Crossed]] = {}
        # By call: how long its reservation was last held for.
        self.holds: dict[str, float] = {}
        # By call: those that spend what it reserves.
        self.samples: dict[str, tuple[str, ...]] = {}
        self._parts: dict[tuple[str, str], Part] = {}

    async def reserve(
        self, call_id: str, parts: Sequence[Part], amount: Decimal, *, hold_s: float, samples: Sequence[str] = ()
    ) -> Reserved:
        self._reach()
        needs, raises = [], []
        for part in parts:
            start, end = period_of(part.budget.period, self.clock.now())
            known = self.reservations.get((call_id, part.budget.name, part.scope))
            if known is None or not known[1]:
                standing = self._standing(part, start, end)
                given_back = known[2] if known is not None and known[0] == start else Decimal(0)
                needs.append((part, replace(standing, spent=standing.spent - given_back)))
            elif known[2] < amount:
                standing = self.standings[part.budget.name, part.scope, known[0]]
                raises.append((part, replace(standing, reserved=standing.reserved - known[2])))
        outcome = decide(needs, amount)
        if not isinstance(outcome, Held):
            return outcome
        self.holds[call_id] = hold_s
        self.samples[call_id] = tuple(samples)
        for part, standing in needs:
            self._parts[part.budget.name, part.scope] = part
            key = (call_id, part.budget.name, part.scope)
            if key in self.reservations:
                self._move(part, self.reservations[key][0], spent=-self.reservations[key][2])
            self.reservations[key] = (standing.period_start, True, amount)
            self._move(part, standing.period_start, reserved=amount)
        raised = decide(raises, amount)
        if not isinstance(raised, Held):
            return Held(short=raised)
        for part, standing in raises:
            key = (call_id, part.budget.name, part.scope)
            self._move(part, standing.period_start, reserved=amount - self.reservations[key][2])
            self.reservations[key] = (standing.period_start, True, amount)
        return outcome

    async def settle(self, call_id: str, spent: Decimal) -> Sequence[Crossed]:
        self._reach()
        for key, (start, is_open, amount) in sorted(self.reservations.items()):
            if key[0] != call_id:
                continue
            part = self._parts[key[1:]]
            before = self.standings[part.budget.name, part.scope, start].spent
            if is_open:
                self._move(part, start, reserved=-amount, spent=spent)
                told = self.crossed.setdefault(call_id, [])
                told += crossed(part, before, before + spent, self.clock.now(), told=told)
            else:
                self._move(part, start, spent=spent - amount)
            self.reservations[key] = (start, False, spent)
        return tuple(self.crossed.get(call_id, ()))

    def _standing(self, part: Part, start: datetime, end: datetime) -> Standing:
        key = (part.budget.name, part.scope, start)
        return self.standings.setdefault(key, Standing(period_start=start, period_end=end))

    def _move(
        self, part: Part, start: datetime, *, spent: Decimal = Decimal(0), reserved: Decimal = Decimal(0)
    ) -> None:
        key = (part.budget.name, part.scope, start)
        now = self.standings[key]
        self.standings[key] = replace(now, spent=now.spent + spent, reserved=now.reserved + reserved)

    def _reach(self) -> None:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")
