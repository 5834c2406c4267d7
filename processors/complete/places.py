"""Finds a request a place at a deployment: at its route's own, else at a fallback, else it says how long to wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from processors.clock import Clock
from processors.complete.cancellation import Cancellation
from processors.complete.payload import build_payload, token_limit
from processors.complete.pricing import upper_bound
from processors.complete.retry import Go
from processors.complete.routes import Group, Route
from processors.journal import AttemptRow
from processors.routing import Ask, Pool, Seat, Unavailable
from processors.routing.causes import UNUSED
from schemas.errors import DependencyDownError, NotYetError, RefusedError
from schemas.records import Enrichment

# For longer than this no slot is kept: the event is set aside. Longer than a lease, which is over by then.
LONGEST_WAIT_S = 20.0
# A deployment that is down for hours is looked at again after so long.
_LONGEST_ASIDE_S = 600.0
# Somebody who waited at the same moment must not come back at the same moment.
_SPREAD = 1.1


class Places:
    """Places of one worker's deployments."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self.pool, self._clock = pool, clock

    async def find(
        self,
        route: Route,
        go: Go,
        asked: Enrichment,
        *,
        attempts: Sequence[AttemptRow] = (),
        cancellation: Cancellation,
        latest: float,
    ) -> Seat | Unavailable:
        """A seat at one of the group; where none may be used, at a fallback for the reason.

        Waits without an end for a place that is taken, until the monotonic time ``latest``: ``DependencyDownError``
        then. Waits for ``patience_s`` of the route, or ``LONGEST_WAIT_S`` where there is nothing else to go to, for
        one that may not be used now. Raises ``RefusedError`` when the request is cancelled meanwhile.
        """
        # A reply is kept while a stronger model is looked for, most times.
        stronger = go.cause == "cascade" and bool(attempts)
        elsewhere = bool(route.fallbacks) or route.last_resort is not None or stronger
        try:
            async with cancellation.scope(), asyncio.timeout(max(0.0, latest - time.monotonic())):
                ask = self._ask(go, asked, first=not attempts)
                found = await self.pool.take(ask, patience_s=route.patience_s if elsewhere else LONGEST_WAIT_S)
                if isinstance(found, Seat):
                    return found
                other = await self._elsewhere(route, found, asked, attempts)
                if other is not None or route.last_resort is not None or stronger or not elsewhere:
                    return other or found
                return await self.pool.take(ask, patience_s=LONGEST_WAIT_S - route.patience_s)
        except TimeoutError:
            name = go.group.deployments[0].name
            raise DependencyDownError(f"deployment {name}", "every slot was taken, or its call is open") from None

    @asynccontextmanager
    async def seat(
        self, route: Route, go: Go, asked: Enrichment, *, cancellation: Cancellation, latest: float
    ) -> AsyncIterator[Seat | Unavailable | None]:
        """``find`` for a call's first attempt: a seat that is left with the block, where nobody made use of it.

        ``None`` when the request is cancelled before there is one. Raises ``DependencyDownError`` as ``find`` does.
        """
        try:
            found = await self.find(route, go, asked, cancellation=cancellation, latest=latest)
        except RefusedError:
            yield None
            return
        try:
            yield found
        finally:
            if isinstance(found, Seat):
                self.pool.leave(found, UNUSED)

    def at_once(self, group: Group, asked: Enrichment) -> Seat | None:
        """A seat for a further call at one of the group that nobody waits for; ``None`` without one. Does not block."""
        return self.pool.at_once(self._ask(Go(group=group), asked, first=False))

    def set_aside(self, found: Unavailable) -> NotYetError:
        """The error that sets the event aside until something may be had again."""
        wait_s = min(found.wait_s, _LONGEST_ASIDE_S)
        return NotYetError(max(LONGEST_WAIT_S, wait_s * _SPREAD), f"deployment/{found.deployment}")

    async def _elsewhere(
        self, route: Route, found: Unavailable, asked: Enrichment, attempts: Sequence[AttemptRow]
    ) -> Seat | None:
        tried = {row.target.deployment for row in attempts}
        for group in route.fallbacks.get(found.cause, ()):
            if any(one.name in tried for one in group.deployments):
                continue
            other = await self.pool.take(self._ask(Go(group=group), asked, first=not attempts), patience_s=0.0)
            if isinstance(other, Seat):
                self.pool.observer.on_fallback(route.name, found.cause)
                return other
        return None

    def _ask(self, go: Go, asked: Enrichment, *, first: bool) -> Ask:
        sampling, at = asked.request.sampling, self._clock.now()
        deployments = go.group.deployments
        costs, tokens = {}, 0
        if go.group.strategy == "cheapest" or any(one.tokens_per_minute for one in deployments):
            for one in deployments:
                limit = token_limit(sampling, one)
                bound = upper_bound(build_payload(asked, one), one, limit, at=at)
                costs[one.name] = bound.usd
                tokens = (asked.grounding.prompt_tokens_estimate or bound.prompt_tokens) + limit
        return Ask(group=go.group, tokens=tokens, costs=costs, avoid=go.avoid, first=first)
