"""The budgets of a worker that pays: its guard, and the sweep of what workers left behind that are gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from processors.batchapi.collector import LEASE_S as BATCH_S
from processors.budgets.postgres import PostgresBudgets
from processors.budgets.rule import Crossed
from processors.clock import Clock
from processors.complete.purse import Guard
from processors.postgres import Database
from schemas.errors import DependencyDownError
from streams.budget_settings import budgets_of
from streams.metrics import Metrics
from streams.settings import Settings
from streams.stages import STAGES

SWEEP_INTERVAL_S = 10.0
# Beyond the longest that a call may take: its worker is gone, or was paused for so long that it lost its lease.
MARGIN_S = 15.0

log = structlog.get_logger(__name__)


class Budgeting:
    """Budgets in Postgres, by the settings. Call ``start`` before the first event and ``stop`` after the last."""

    def __init__(self, settings: Settings, database: Database, *, clock: Clock, metrics: Metrics) -> None:
        rules = budgets_of(settings.budgets)
        self._budgets, self._metrics = PostgresBudgets(database, rules), metrics
        hold_s = STAGES["complete"].limit_s(settings) + settings.worker.lease_s + MARGIN_S
        self.guard = Guard(self._budgets, rules, clock=clock, hold_s=hold_s, observer=BudgetMetrics(metrics))
        # For calls that go by batch: swept no sooner than their leases end.
        self.lasting = Guard(self._budgets, rules, clock=clock, hold_s=BATCH_S, observer=BudgetMetrics(metrics))
        # Without budgets there is nothing to sweep; what an earlier setting left behind stands in no one's way.
        self._sweeps = bool(rules)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to sweep. Does not block."""
        if self._sweeps:
            self._task = asyncio.ensure_future(sweep(self._budgets.sweep, self._metrics))

    async def stop(self) -> None:
        """Stop sweeping."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def sweep(once: Callable[[], Awaitable[int]], metrics: Metrics, *, interval_s: float = SWEEP_INTERVAL_S) -> None:
    """Sweep for ever. A pass that fails is told and tried again: what is left behind is only reserved for longer."""
    while True:
        await asyncio.sleep(interval_s * random.uniform(0.8, 1.2))
        try:
            metrics.budgets_swept.inc(await once())
        except DependencyDownError:
            continue
        except Exception as error:
            log.error("reservations could not be swept", error=type(error).__name__)


class BudgetMetrics:
    """A ``BudgetObserver`` that counts."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_reserved(self, budget: str, outcome: str) -> None:
        self._metrics.budget_reservations.labels(budget, outcome).inc()

    def on_crossed(self, crossed: Crossed) -> None:
        self._metrics.budget_thresholds.labels(crossed.budget, crossed.threshold).inc()
