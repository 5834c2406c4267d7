"""What a budget is, whose money it counts, and what a reservation may do to it: without storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

Period = Literal["day", "month"]
# What a budget may be limited to. EACH: every value has a budget of its own.
DIMENSIONS = ("tenant", "team", "user", "feature")
EACH = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """So much money in a UTC day or month. ``only``: by dimension the value that it counts, or ``EACH``.

    The hard limit is never passed; passing the soft one is told, as is passing ``alert_at`` of the hard limit (of the
    soft one, where there is no hard one). Amounts in US dollars.
    """

    name: str
    period: Period
    only: Mapping[str, str]
    hard_usd: Decimal | None = None
    soft_usd: Decimal | None = None
    alert_at: Decimal = Decimal("0.8")

    def scope(self, who: Mapping[str, str]) -> str | None:
        """Whose money this is, e.g. ``tenant=acme,user=u1``; ``None`` where the budget does not count it.

        What names no team, user or feature is counted by no budget of each of them.
        """
        parts = []
        for dimension in DIMENSIONS:
            wanted, value = self.only.get(dimension), who.get(dimension, "")
            if wanted is None:
                continue
            if not value or wanted not in (EACH, value):
                return None
            parts.append(f"{dimension}={value}")
        return ",".join(parts)

    def thresholds(self) -> tuple[tuple[str, Decimal], ...]:
        """What is told when it is passed: a name and an amount."""
        whole = self.hard_usd if self.hard_usd is not None else self.soft_usd
        found = [] if whole is None else [(f"{self.alert_at:%}".replace(".000000", ""), whole * self.alert_at)]
        if self.soft_usd is not None:
            found.append(("soft limit", self.soft_usd))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Part:
    """A call's part in a budget: the budget and the scope that it counts in."""

    budget: Budget
    scope: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A budget's period: what was spent, and what open calls may spend."""

    period_start: datetime
    period_end: datetime
    spent: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossed:
    """A threshold that a settlement passed."""

    budget: str
    scope: str
    threshold: str
    limit_usd: Decimal
    spent_usd: Decimal
    at: datetime


@dataclass(frozen=True, slots=True)
class Full:
    """Open calls may spend what is left: it fits or is over once they have settled."""

    budget: str


@dataclass(frozen=True, slots=True)
class Over:
    """The worst case does not fit into what is left; ``until`` is the end of the period."""

    budget: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Held:
    """The worst case is reserved: the call may be made.

    ``short``: the call had reserved less before, which stays reserved, and why it can't be raised to the worst case.
    """

    short: Full | Over | None = None


Reserved = Held | Full | Over


def parts_of(budgets: Sequence[Budget], who: Mapping[str, str]) -> tuple[Part, ...]:
    """The budgets that count this money, in the order in which their rows are locked."""
    found = [(budget, budget.scope(who)) for budget in budgets]
    parts = [Part(budget, scope) for budget, scope in found if scope is not None]
    return tuple(sorted(parts, key=lambda part: (part.budget.name, part.scope)))


def decide(needs: Sequence[tuple[Part, Standing]], amount: Decimal) -> Reserved:
    """Whether ``amount`` more may be reserved in all of these: spent and reserved never exceed a hard limit."""
    full: Full | None = None
    for part, standing in needs:
        limit = part.budget.hard_usd
        if limit is None or standing.spent + standing.reserved + amount <= limit:
            continue
        if standing.spent + amount > limit:
            return Over(part.budget.name, standing.period_end)
        full = full or Full(part.budget.name)
    return full or Held()


def crossed(
    part: Part, before: Decimal, after: Decimal, at: datetime, *, told: Sequence[Crossed] = ()
) -> list[Crossed]:
    """The thresholds between what was spent before and after a settlement, less those that its call told before."""
    known = {one.threshold for one in told if (one.budget, one.scope) == (part.budget.name, part.scope)}
    return [
        Crossed(budget=part.budget.name, scope=part.scope, threshold=name, limit_usd=limit, spent_usd=after, at=at)
        for name, limit in part.budget.thresholds()
        if before < limit <= after and name not in known
    ]
