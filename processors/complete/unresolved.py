"""Settles attempts whose outcome is unknown by what their provider says."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

from processors.clock import Clock
from processors.complete.payload import build_payload
from processors.complete.reconcile import Known, NotTaken, Reconciler, Undecided
from processors.complete.routes import Deployment
from processors.complete.settling import NOT_SENT, brought
from processors.complete.task import Task
from processors.complete.unwritten import Outcome, Unwritten
from processors.journal import AttemptRow, Journal, Lease, Settled
from processors.journal.protocol import INDETERMINATE
from processors.model.port import ModelReply
from schemas.errors import FencedError

# How often a provider is asked that can't tell yet, and the pause between two times in seconds: a call may still run.
_TIMES, _PAUSE_S = 5, 2.0

# How the attempt is booked that was opened to be sent, and was not needed.
_RECONCILED = replace(NOT_SENT, error_class="unknown", error_code="reconciled")


def _not_taken(lost: AttemptRow) -> Settled:
    """How an attempt is booked that its provider never took."""
    return Settled(
        state="failed",
        cost_usd=Decimal(0),
        error_class="transient-provider",
        error_code="not_taken",
        duration_ms=lost.duration_ms,
    )


class Settler:
    """Asks providers about the attempts of one worker's calls, and books what they say."""

    def __init__(
        self,
        reconciler: Reconciler,
        journal: Journal,
        unwritten: Unwritten,
        clock: Clock,
    ) -> None:
        self._reconciler, self._journal, self._unwritten = reconciler, journal, unwritten
        self._clock = clock

    async def resolve(
        self, lease: Lease, attempts: tuple[AttemptRow, ...], task: Task, *, until: float
    ) -> tuple[AttemptRow, ...] | None:
        """The attempts, once it is known of each before the open one that it was never taken: that may be sent.

        ``None``: the call ended, by the reply that an earlier one had, or as indeterminate where nobody can tell until
        the monotonic time ``until``. Blocks on the provider and the journal; raises ``DependencyDownError`` and
        ``FencedError``.
        """
        for lost in [row for row in attempts[:-1] if row.state == "unknown" and row.late_at is None]:
            known = await self._ask(lost, task, until=until)
            if isinstance(known, NotTaken):
                attempts = await self._journal.fail_attempt(lease, lost.attempt_id, _not_taken(lost))
                continue
            outcome = Outcome(lease=lease, attempt_id=attempts[-1].attempt_id, settled=_RECONCILED)
            if isinstance(known, Undecided):
                await self._unwritten.book(replace(outcome, failure=INDETERMINATE))
                return None
            truth = self._truth(known.reply, lost, task)
            result = task.encode(known.reply, attempts, replace(_RECONCILED, usage=truth.usage))
            await self._unwritten.book(replace(outcome, result=result))
            # After the result: a crash between the two leaves the attempt at its bound, and buys nothing.
            with suppress(FencedError):
                await self._journal.fail_attempt(lease, lost.attempt_id, truth)
            return None
        return attempts

    async def _ask(self, lost: AttemptRow, task: Task, *, until: float) -> Known:
        """What became of the attempt; asks again while nobody can tell."""
        deployment = _named(task, lost)
        for turn in range(_TIMES):
            if turn:
                await asyncio.sleep(_PAUSE_S)
            if deployment is None or time.monotonic() >= until:
                break
            known = await self._reconciler.ask(lost, deployment)
            if not isinstance(known, Undecided):
                return known
        return Undecided()

    def _truth(self, reply: ModelReply, lost: AttemptRow, task: Task) -> Settled:
        """How the attempt is booked that brought this reply."""
        deployment, record = _named(task, lost), task.stored.record
        assert deployment is not None
        payload, estimate = build_payload(record, deployment), record.grounding.prompt_tokens_estimate
        booked = brought(reply, deployment, payload, estimate=estimate, at=self._clock.now())
        # The reply's own times are those of asking for it.
        return replace(booked, duration_ms=lost.duration_ms, first_token_ms=None)


def _named(task: Task, row: AttemptRow) -> Deployment | None:
    return next((one for one in task.route.deployments if one.name == row.target.deployment), None)
