"""A call and its budgets, for the stage that pays: reserve before it is granted, settle when it has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_UP, Decimal
from typing import Protocol

from processors.budgets.port import Budgets
from processors.budgets.rule import Budget, Crossed, Full, Held, Over, Part, Reserved, parts_of
from processors.clock import Clock
from processors.event import Incoming
from processors.journal import AttemptRow, CallFailure
from schemas.errors import NotYetError, RefusedError
from schemas.records import Alert, Enrichment, Request

BUDGET_EXCEEDED = "budget_exceeded"
# Alerts are numbered from here on: no other output of the stage has these numbers.
ALERT_ORDINAL = 7_000
# How long a call waits in its stage while others may spend what is left, and how long outside the log after that.
PATIENCE_S = 2.0
PUT_OFF_S = 5.0
_SMALLEST = Decimal("0.000000000001")


class BudgetObserver(Protocol):
    """Hears of every decision. Must not block or raise."""

    def on_reserved(self, budget: str, outcome: str) -> None:
        """A call was ``held``, found its budget ``full`` by open calls, or ``over``; ``budget`` is empty for held."""
        ...

    def on_crossed(self, crossed: Crossed) -> None:
        """A threshold was passed, for the first time or told again."""
        ...


class NullBudgetObserver:
    """Counts nothing."""

    def on_reserved(self, budget: str, outcome: str) -> None:
        """Nothing."""

    def on_crossed(self, crossed: Crossed) -> None:
        """Nothing."""


class Guard:
    """The budgets of a worker. ``hold_s``: after this long an unsettled reservation counts as left behind."""

    def __init__(
        self,
        budgets: Budgets,
        rules: Sequence[Budget],
        *,
        clock: Clock,
        hold_s: float,
        observer: BudgetObserver | None = None,
    ) -> None:
        self._budgets, self._rules, self._clock, self._hold_s = budgets, tuple(rules), clock, hold_s
        self._observer = observer or NullBudgetObserver()

    def of(self, incoming: Incoming[Enrichment], call_id: str) -> Purse | None:
        """The budgets of this request's call; ``None`` where none counts it."""
        parts = parts_of(self._rules, who_pays(incoming.record.request, incoming.meta.tenant))
        if not parts:
            return None
        return Purse(self._budgets, parts, call_id, clock=self._clock, hold_s=self._hold_s, observer=self._observer)


class Purse:
    """One call's part in its budgets."""

    def __init__(
        self,
        budgets: Budgets,
        parts: Sequence[Part],
        call_id: str,
        *,
        clock: Clock,
        hold_s: float,
        observer: BudgetObserver,
    ) -> None:
        self._budgets, self._parts, self._call_id = budgets, parts, call_id
        self._clock, self._hold_s, self._observer = clock, hold_s, observer
        self._since: float | None = None
        self.refusal: RefusedError | None = None

    async def reserve(self, worst_usd: Decimal, *, now_s: float) -> CallFailure | bool:
        """True when the call may be made; False when it has to wait; else why it may not be made.

        ``now_s``: monotonic. Blocks for one transaction. Raises ``NotYetError`` after waiting for ``PATIENCE_S``, and
        ``DependencyDownError``.
        """
        self.refusal = None
        if worst_usd <= 0:
            return True
        amount = worst_usd.quantize(_SMALLEST, rounding=ROUND_UP)
        outcome: Reserved = await self._budgets.reserve(self._call_id, self._parts, amount, hold_s=self._hold_s)
        if isinstance(outcome, Held):
            self._observer.on_reserved("", "held")
            return True
        if isinstance(outcome, Over):
            self._observer.on_reserved(outcome.budget, "over")
            left_s = (outcome.until - self._clock.now()).total_seconds()
            self.refusal = over_budget(outcome.budget, left_s)
            return failure_of_budget(self.refusal)
        return self._wait(outcome, now_s)

    async def settle(self, incoming: Incoming[Enrichment], attempts: Sequence[AttemptRow]) -> Sequence[Alert]:
        """Replace the reservation by what the attempts cost; the alerts to publish. Blocks for one transaction."""
        spent = sum((row.cost_usd for row in attempts if row.cost_usd is not None), Decimal(0))
        told = await self._budgets.settle(self._call_id, spent.quantize(_SMALLEST, rounding=ROUND_UP))
        for one in told:
            self._observer.on_crossed(one)
        return [_alert(incoming, one, number) for number, one in enumerate(told)]

    async def refuse(self, incoming: Incoming[Enrichment]) -> None:
        """Give back what was reserved for a call that was never granted. Raises the refusal, if that was ours."""
        await self.settle(incoming, ())
        if self.refusal is not None:
            raise self.refusal

    def _wait(self, outcome: Full, now_s: float) -> bool:
        self._observer.on_reserved(outcome.budget, "full")
        if self._since is None:
            self._since = now_s
        if now_s - self._since >= PATIENCE_S:
            raise NotYetError(PUT_OFF_S, f"budget/{outcome.budget}")
        return False


def who_pays(request: Request, tenant: str) -> Mapping[str, str]:
    """On whose behalf a request spends."""
    return {"tenant": tenant, "team": request.team, "user": request.user, "feature": request.feature}


def over_budget(budget: str, left_s: float) -> RefusedError:
    """The refusal of a request whose budget is used up until its period ends."""
    message = f"the budget {budget} has not enough left for this request; its period ends in retry_after_s"
    return RefusedError(BUDGET_EXCEEDED, message, retry_after_s=round(max(0.0, left_s), 3))


def failure_of_budget(refusal: RefusedError) -> CallFailure:
    """What a call ends with that was begun before and may not go on."""
    return CallFailure(
        kind="failed", code=refusal.code, error_class=refusal.error_class, message=str(refusal), retryable=True
    )


def _alert(incoming: Incoming[Enrichment], one: Crossed, number: int) -> Alert:
    """Its id is the same whenever it is told: the settlement keeps what it passed, and when."""
    where = f" ({one.scope})" if one.scope else ""
    return Alert(
        meta=incoming.child("complete", "1", ALERT_ORDINAL + number),
        kind="budget",
        severity="warning",
        subject=one.budget,
        message=f"the budget {one.budget}{where} passed its {one.threshold}; see `headrace budgets`",
        value=float(one.spent_usd),
        threshold=float(one.limit_usd),
        labels={"budget": one.budget, "scope": one.scope, "threshold": one.threshold},
        raised_at=one.at,
    )
