"""What a request's limits mean to it: it goes on, waits outside the log, or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from processors.admit.in_flight import Entering, Room
from processors.admit.limiter import Charge, Charged, Charger
from processors.admit.limits import LimitPolicy, Step
from processors.budgets.refusal import over_budget, who_pays
from processors.budgets.standings import Standings
from processors.clock import Clock
from processors.idempotency import Claimant, Idempotency
from processors.ruling import OPEN, UNASKED, Ruling
from schemas.errors import NotYetError, RefusedError
from schemas.records import Admitted, Request

RATE_LIMITED = "rate_limited"
TOO_LARGE = "rate_limit_too_small"
# What holds a request whose tenant has as many in the stream as it may.
MAX_IN_FLIGHT = "tenant.max_in_flight"
# How a ruling names the budget that is used up.
_BUDGET = "budget/"


class LimitObserver(Protocol):
    """Hears of every decision. Must not block or raise."""

    def on_ruling(self, tier: str, ruling: Ruling) -> None:
        """A request of this tier was admitted, queued or rejected."""
        ...


class NullLimitObserver:
    """Counts nothing."""

    def on_ruling(self, tier: str, ruling: Ruling) -> None:
        """Nothing."""


class Limiting:
    """Decides once for each request, and keeps the decision with its reservation.

    A decision is kept after the charge and before anything is published. So a redelivery finds it and is charged
    nothing; of two deliveries at once the first to keep its decision wins, and the other one's charge is given back.
    A worker that dies between the two steps has charged a request that is charged again: the limit is kept, by one
    request too strictly.
    """

    def __init__(
        self,
        policy: LimitPolicy,
        charger: Charger,
        *,
        idempotency: Idempotency,
        clock: Clock,
        lane: str,
        standings: Standings | None = None,
        room: Room | None = None,
        observer: LimitObserver | None = None,
    ) -> None:
        self._standings, self._room = standings, room
        self._policy, self._charger, self._idempotency = policy, charger, idempotency
        self._clock, self._lane = clock, lane
        self._observer = observer or NullLimitObserver()

    def opening(self, request: Request, *, tier: str, route: str) -> Ruling:
        """What to keep with a new reservation of this request."""
        tenant = request.meta.tenant
        counted = self._standings is not None and self._standings.counts(who_pays(request, tenant))
        counted = counted or (self._room is not None and self._room.capped(tenant))
        return OPEN if counted or self._policy.steps(request, lane=self._lane, tier=tier, route=route) else UNASKED

    async def enter(self, admitted: Admitted, claimant: Claimant, kept: Ruling, *, known: bool) -> Sequence[Step]:
        """Let a request in; what was charged for it now, to be given back if it does not go on after all.

        ``kept`` is what its reservation says; ``known``: it was delivered before. Blocks for its place, for the charge
        and for one more round trip, for none of them where it was decided before. Raises ``RefusedError`` where it is
        over a limit, ``NotYetError`` where its tier queues or its tenant's cap is reached, and ``DependencyDownError``.
        """
        if kept.verdict in ("", "admitted"):
            return ()
        if kept.verdict == "rejected":
            raise self._refusal(kept)
        steps = self._left(admitted, kept)
        await self._take_place(admitted, known=known)
        if kept.verdict == "queued" and not steps:
            return ()
        tier, expires_at = admitted.admission.tier, _expiry(admitted)
        longest_s = (expires_at - self._clock.now()).total_seconds() if self._policy.of(tier).queue else 0.0
        charged, ours = await self._decide(admitted.request, Charge(steps=steps, longest_wait_s=longest_s))
        first = await self._idempotency.rule(claimant, ours, was=kept)
        if first is ours:
            self._observer.on_ruling(tier, ours)
        else:
            self._charger.give_back(charged.paid)
        if first.verdict == "rejected":
            raise self._refusal(first)
        if first.verdict == "queued":
            await self._leave_place(admitted)
            raise self._not_yet(first, expires_at)
        return charged.paid if first is ours else ()

    def _left(self, admitted: Admitted, kept: Ruling) -> tuple[Step, ...]:
        """The steps that are not paid yet. Raises ``NotYetError`` while the one that it waits for is not there."""
        admission = admitted.admission
        steps = self._policy.steps(admitted.request, lane=self._lane, tier=admission.tier, route=admission.route)
        if kept.verdict != "queued":
            return steps
        if kept.until is not None and kept.until > self._clock.now():
            raise self._not_yet(kept, _expiry(admitted))
        names = [step.name for step in steps]
        return steps[names.index(kept.by) + 1 :] if kept.by in names else steps

    async def _take_place(self, admitted: Admitted, *, known: bool) -> None:
        """Count the request against its tenant's cap. Raises ``NotYetError`` where there is no room."""
        tenant, until = admitted.meta.tenant, _expiry(admitted)
        if self._room is None or not self._room.capped(tenant):
            return
        entering = Entering(request_id=admitted.meta.request_id, until=until)
        if not await self._room.enter(tenant, entering, known=known):
            self._observer.on_ruling(admitted.admission.tier, Ruling(verdict="queued", by=MAX_IN_FLIGHT))
            # It comes back when there is room for it.
            raise NotYetError(0.0, MAX_IN_FLIGHT, expires_at=until)

    async def _leave_place(self, admitted: Admitted) -> None:
        tenant = admitted.meta.tenant
        if self._room is not None and self._room.capped(tenant):
            await self._room.leave(tenant, admitted.meta.request_id)

    def _not_yet(self, ruling: Ruling, expires_at: datetime) -> NotYetError:
        now = self._clock.now()
        wait_s = max(0.0, ((ruling.until or now) - now).total_seconds())
        return NotYetError(wait_s, f"limit/{ruling.by}", expires_at=expires_at)

    def give_back(self, steps: Sequence[Step]) -> None:
        """Put back what ``enter`` charged for a request that costs nothing after all. Does not block."""
        if steps:
            self._charger.give_back(steps)

    async def _decide(self, request: Request, charge: Charge) -> tuple[Charged, Ruling]:
        """What is charged and decided. Nothing is charged where the request's budget is used up."""
        who = who_pays(request, request.meta.tenant)
        over = None if self._standings is None else await self._standings.over(who)
        if over is not None:
            by = f"{_BUDGET}{over.budget}"
            return Charged(verdict="rejected", by=by), Ruling(verdict="rejected", by=by, until=over.until)
        # A budget alone charges nothing.
        charged = await self._charger.charge(charge) if charge.steps else Charged(verdict="admitted")
        return charged, self._ruling(charged)

    def _ruling(self, charged: Charged) -> Ruling:
        if charged.verdict == "admitted":
            # A value of its own: it tells our decision from an equal one that came first.
            return Ruling(verdict="admitted")
        until = None if charged.wait_s is None else self._clock.now() + timedelta(seconds=charged.wait_s)
        return Ruling(verdict=charged.verdict, by=charged.by, until=until)

    def _refusal(self, ruling: Ruling) -> RefusedError:
        if ruling.until is None:
            return RefusedError(TOO_LARGE, f"the request alone is larger than the limit {ruling.by} ever lets through")
        wait_s = max(0.0, (ruling.until - self._clock.now()).total_seconds())
        if ruling.by.startswith(_BUDGET):
            return over_budget(ruling.by.removeprefix(_BUDGET), wait_s)
        message = f"the limit {ruling.by} is reached; send it again under a new id after retry_after_s"
        return RefusedError(RATE_LIMITED, message, retry_after_s=round(wait_s, 3))


def _expiry(admitted: Admitted) -> datetime:
    expires_at = admitted.admission.expires_at
    assert expires_at is not None
    return expires_at
