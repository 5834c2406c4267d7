"""A call and its budgets: the worst case is reserved before it is granted, and settled when it has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import ROUND_UP, Decimal
from typing import Protocol

from processors.budgets.port import Budgets, FakeBudgets
from processors.budgets.refusal import over_budget, who_pays
from processors.budgets.rule import Budget, Crossed, Full, Held, Over, Part, Reserved, parts_of
from processors.clock import Clock
from processors.complete import STAGE, VERSION
from processors.complete.routes import Route
from processors.complete.samples import Sample
from processors.complete.tasks import sample_key
from processors.complete.worst import worst_case
from processors.event import Incoming, Output
from processors.journal import AttemptRow, Busy, CallFailure, CallKey, Done, Ended, Offer
from schemas.errors import CrashLoopError, IndeterminateError, NotYetError, RefusedError
from schemas.records import Alert, Enrichment

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

    @classmethod
    def none(cls, clock: Clock) -> Guard:
        """A guard of no budgets."""
        return cls(FakeBudgets(clock), (), clock=clock, hold_s=0.0)

    def of(self, incoming: Incoming[Enrichment], key: CallKey) -> Purse:
        """The budgets of this request's call; with none that counts it, nothing is reserved."""
        parts = parts_of(self._rules, who_pays(incoming.record.request, incoming.meta.tenant)) if self._rules else ()
        hold_s, observer = self._hold_s, self._observer
        return Purse(self._budgets, parts, key, clock=self._clock, hold_s=hold_s, observer=observer)


class Purse:
    """One call's part in its budgets."""

    def __init__(
        self,
        budgets: Budgets,
        parts: Sequence[Part],
        key: CallKey,
        *,
        clock: Clock,
        hold_s: float,
        observer: BudgetObserver,
    ) -> None:
        self._budgets, self._parts, self._key = budgets, parts, key
        self._clock, self._hold_s, self._observer = clock, hold_s, observer
        self._since: float | None = None
        self.refusal: RefusedError | None = None
        # Whether what is reserved holds the calls of a cascade's stronger models.
        self.holds_stronger = True

    async def reserve(
        self, offer: Offer, enrichment: Enrichment, route: Route, *, escalated: bool = False
    ) -> Offer | Busy:
        """The offer, to be claimed with; ``Busy`` while open calls may spend what is left.

        Where no money is left the offer says so, and is never granted. Blocks for one transaction, and for nothing
        where no budget counts the call or the call costs nothing. ``escalated``: a stronger model is asked first,
        because the first one's reply was booked by another worker. Raises ``NotYetError`` after waiting for
        ``PATIENCE_S``, and ``DependencyDownError``.
        """
        self.refusal, self.holds_stronger = None, True
        outcome = await self._held(enrichment, route)
        if isinstance(outcome, Held) and outcome.short is not None and route.cascade is not None:
            # Held before, for the first model alone.
            self.holds_stronger = False
            outcome = outcome.short if escalated else outcome
        if isinstance(outcome, Over) and route.cascade is not None and not escalated:
            # Enough for the first model, perhaps: its reply stands then, whatever it is.
            self.holds_stronger = False
            outcome = await self._held(enrichment, replace(route, cascade=None))
        if outcome is None:
            return offer
        if isinstance(outcome, Full):
            return self._wait(outcome)
        if isinstance(outcome, Over):
            self._observer.on_reserved(outcome.budget, "over")
            self.refusal = over_budget(outcome.budget, (outcome.until - self._clock.now()).total_seconds())
            return replace(offer, refused=_failure(self.refusal))
        self._observer.on_reserved("", "held")
        return offer

    async def holds_all(self, enrichment: Enrichment, route: Route) -> bool:
        """Whether a cascade's stronger models are paid for, too, after the call was granted with a batch.

        Blocks for one transaction, and for nothing where no budget counts the call or the route has no cascade. Raises
        ``DependencyDownError``.
        """
        return route.cascade is None or await self._held(enrichment, route) in (None, Held())

    async def _held(self, enrichment: Enrichment, route: Route) -> Reserved | None:
        worst_usd = worst_case(enrichment, route, at=self._clock.now()) if self._parts else Decimal(0)
        if worst_usd <= 0:
            return None
        amount = worst_usd.quantize(_SMALLEST, rounding=ROUND_UP)
        size = 0 if route.fan_out is None else route.fan_out.size
        samples = [sample_key(self._key, number).call_id for number in range(size)]
        return await self._budgets.reserve(self._key.call_id, self._parts, amount, hold_s=self._hold_s, samples=samples)

    async def settled(
        self,
        incoming: Incoming[Enrichment],
        claim: Done | Ended,
        outputs: Callable[[Incoming[Enrichment], CallKey, Done | Ended, Sequence[Sample]], Sequence[Output]],
        samples: Sequence[Sample] = (),
    ) -> Sequence[Output]:
        """The outputs of a call that has ended, with the alerts of its budgets. Raises what ``outputs`` raises."""
        alerts = await self.settle(incoming, [*claim.attempts, *(row for one in samples for row in one.rows)])
        try:
            return [*outputs(incoming, self._key, claim, samples), *alerts]
        except (IndeterminateError, CrashLoopError) as error:
            error.outputs = (*error.outputs, *alerts)
            raise

    async def settle(self, incoming: Incoming[Enrichment], attempts: Sequence[AttemptRow]) -> Sequence[Alert]:
        """Replace the reservation by what the attempts cost; the alerts to publish. Blocks for one transaction."""
        if not self._parts:
            return ()
        spent = sum((row.cost_usd for row in attempts if row.cost_usd is not None), Decimal(0))
        told = await self._budgets.settle(self._key.call_id, spent.quantize(_SMALLEST, rounding=ROUND_UP))
        for one in told:
            self._observer.on_crossed(one)
        return [_alert(incoming, one, number) for number, one in enumerate(told)]

    async def refuse(self, incoming: Incoming[Enrichment]) -> None:
        """Give back what was reserved for a call that was never granted. Raises the refusal, if that was ours."""
        await self.settle(incoming, ())
        if self.refusal is not None:
            raise self.refusal

    def _wait(self, outcome: Full) -> Busy:
        self._observer.on_reserved(outcome.budget, "full")
        now = time.monotonic()
        if self._since is None:
            self._since = now
        if now - self._since >= PATIENCE_S:
            raise NotYetError(PUT_OFF_S, f"budget/{outcome.budget}")
        return Busy(PATIENCE_S / 4)


def _failure(refusal: RefusedError) -> CallFailure:
    """What a call ends with that was begun before and may not go on."""
    return CallFailure(
        kind="failed", code=refusal.code, error_class=refusal.error_class, message=str(refusal), retryable=True
    )


def _alert(incoming: Incoming[Enrichment], one: Crossed, number: int) -> Alert:
    """Its id is the same whenever it is told: the settlement keeps what it passed, and when."""
    where = f" ({one.scope})" if one.scope else ""
    return Alert(
        meta=incoming.child(STAGE, VERSION, ALERT_ORDINAL + number),
        kind="budget",
        severity="warning",
        subject=one.budget,
        message=f"the budget {one.budget}{where} passed its {one.threshold}; see `headrace budgets`",
        value=float(one.spent_usd),
        threshold=float(one.limit_usd),
        labels={"budget": one.budget, "scope": one.scope, "threshold": one.threshold},
        raised_at=one.at,
    )
