"""Makes one call that the journal granted: attempts, retries and their booking."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from processors.clock import Clock
from processors.complete.attempting import Attempting
from processors.complete.deltas import DeltaSink
from processors.complete.ending import Endings
from processors.complete.hedging import Hedging
from processors.complete.live import Pace
from processors.complete.observer import CallObserver
from processors.complete.payload import Payload
from processors.complete.places import Places
from processors.complete.publishing import Publishing
from processors.complete.retry import Backoff, Go, Later
from processors.complete.target import readdressed, target_of
from processors.complete.task import Again, Sending, Task
from processors.complete.timing import latest_of, left_of
from processors.complete.unresolved import Settler
from processors.complete.unwritten import Outcome, Unwritten
from processors.failpoints import Failpoints
from processors.journal import AttemptRow, CallFailure, Granted, Journal, Lease, LeaseKeeper, Settled, Target
from processors.journal.protocol import CANCELLED, HEDGE_LOST
from processors.model.port import ModelClient
from processors.routing import Seat, Unavailable
from schemas.errors import DependencyDownError, RefusedError


class Caller:
    """Makes granted calls. One for each worker."""

    def __init__(
        self,
        journal: Journal,
        client: ModelClient,
        *,
        keeper: LeaseKeeper,
        unwritten: Unwritten,
        clock: Clock,
        observer: CallObserver,
        failpoints: Failpoints,
        backoff: Backoff,
        random_: random.Random,
        sink: DeltaSink | None,
        pace: Pace,
        places: Places,
        settler: Settler,
    ) -> None:
        self._places, self._pool = places, places.pool
        self._journal, self._settler, self._keeper, self._unwritten = journal, settler, keeper, unwritten
        self._clock, self._observer, self._failpoints = clock, observer, failpoints
        self._publishing = Publishing(sink, pace, keeper=keeper, observer=observer, failpoints=failpoints)
        self._endings = Endings(journal, unwritten, self._pool)
        self._attempting = Attempting(
            client,
            pool=self._pool,
            keeper=keeper,
            endings=self._endings,
            hedging=Hedging(journal, places=places, keeper=keeper, clock=clock, observer=observer),
            clock=clock,
            observer=observer,
            failpoints=failpoints,
            backoff=backoff,
            random_=random_,
        )

    async def run(self, granted: Granted, task: Task, *, since: float) -> None:
        """Call until the journal holds a result or a failure. Leaves ``task.seat``, whatever happens.

        Blocks for the call and its retries, until ``task.ends`` at most, and for the acknowledgement of live deltas. A
        request that is cancelled meanwhile ends with ``CANCELLED`` in the journal. Raises ``FencedError`` when a later
        owner took the call, ``NotYetError`` when the next attempt has to wait for longer than a slot may be kept, and
        ``DependencyDownError`` when an outcome could not be booked; it is then kept, and booked before anything else
        is done with the call.
        """
        assert task.seat is not None
        sending = Sending(task.seat, task.payload)
        try:
            with self._keeper.holding(granted.lease, since=since):
                self._failpoints.hit("after_claim")
                attempts = (*granted.earlier, granted.attempt)
                if granted.earlier and task.streamed:
                    # Its worker is gone, perhaps before it could say so.
                    await self._publishing.abort(granted.earlier[-1], task)
                while True:
                    if task.route.unknown_policy == "reconcile":
                        until = latest_of(task)
                        resolved = await self._settler.resolve(granted.lease, attempts, task, until=until)
                        if resolved is None:
                            return
                        attempts = resolved
                    # A seat that is left already is that of a reply which came by batch.
                    timed = not sending.seat.left
                    async with self._publishing.streaming(granted.lease, attempts[-1], task) as live:
                        outcome, again = await self._attempting.make(granted, attempts, sending, task, live)
                        attempts = await self._unwritten.book(outcome)
                        self._count(outcome, attempts, timed=timed)
                    if outcome.keep is not None:
                        self._failpoints.hit("after_kept")
                    if again is None:
                        return
                    if live is not None and live.given and not live.lost:
                        await self._publishing.abort(attempts[-1], task)
                    seat = await self._next(granted.lease, attempts, again, task)
                    if seat is None:
                        return
                    sending = Sending(seat, self._payload(again.payload, sending, seat, task))
                    since = time.monotonic()
                    attempt = await self._journal.next_attempt(granted.lease, self._target(attempts, sending, task))
                    self._keeper.refreshed(granted.lease, since=since)
                    attempts = (*attempts, attempt)
        finally:
            self._pool.leave(sending.seat)

    async def unsent(self, granted: Granted, task: Task, code: str, *, since: float) -> None:
        """End a call that can be sent nowhere: by the route's last resort, or as failed. Raises as ``run`` does."""
        with self._keeper.holding(granted.lease, since=since):
            await self._endings.unsent(granted, task, code)

    async def failed(self, granted: Granted, task: Task, failure: CallFailure, *, since: float) -> None:
        """End a call that is not sent at all, with ``failure`` or the route's last resort. Raises as ``run`` does."""
        with self._keeper.holding(granted.lease, since=since):
            await self._endings.failed(granted, task, failure)

    async def _next(self, lease: Lease, attempts: tuple[AttemptRow, ...], again: Again, task: Task) -> Seat | None:
        """A seat for the next attempt; ``None`` where the call ended instead. Raises as ``run`` does."""
        try:
            found = await self._find(attempts, again.go, task)
        except RefusedError:
            await self._journal.end(lease, CANCELLED)
            return None
        except DependencyDownError:
            if task.checks is None or task.checks.standing is None:
                raise
            # Every place was taken for as long as the stage may wait. The reply that was kept would be lost.
            await self._endings.resort(lease, attempts, again.otherwise, task)
            return None
        if isinstance(found, Seat):
            return found
        if found and not task.has_last_word and not found.denied and found.wait_s < left_of(task, self._clock).ttl_s:
            raise self._places.set_aside(found)
        await self._endings.resort(lease, attempts, again.otherwise, task)
        return None

    async def _find(self, attempts: tuple[AttemptRow, ...], go: Go | Later, task: Task) -> Seat | Unavailable | None:
        """A seat as ``go`` says, or what keeps it from being had; ``None`` where no attempt follows any more."""
        if isinstance(go, Go) and go.instead is not None and not task.cancellation.requested:
            seat = self._places.at_once(go.group, task.stored.record)
            other = None if seat is not None else go.instead()
            return seat if other is None else await self._find(attempts, other, task)
        if isinstance(go, Later):
            return Unavailable(go.seconds, "outage", go.deployment)
        async with task.cancellation.scope():
            await asyncio.sleep(go.seconds)
        found = await self._places.find(
            task.route,
            go,
            task.stored.record,
            attempts=attempts,
            cancellation=task.cancellation,
            latest=latest_of(task),
        )
        if isinstance(found, Seat) and go.cause is not None:
            self._pool.observer.on_fallback(task.route.name, go.cause)
        return found

    def _payload(self, payload: Payload, before: Sending, seat: Seat, task: Task) -> Payload:
        """What is sent at the seat. A judge's payload may be made of one for another deployment."""
        if payload is before.payload and before.deployment.name == seat.deployment.name:
            return payload
        return readdressed(payload, task.stored.record, seat.deployment)

    def _target(self, attempts: Sequence[AttemptRow], sending: Sending, task: Task) -> Target:
        """Where the next attempt goes, at the bound of what it sends."""
        last = attempts[-1].target
        return target_of(
            last.route,
            sending.deployment,
            sending.payload,
            task.stored.record.request.sampling,
            control_offset=last.control_offset,
            at=self._clock.now(),
        )

    def _count(self, outcome: Outcome, attempts: Sequence[AttemptRow], *, timed: bool) -> None:
        if outcome.result is not None:
            self._failpoints.hit("after_finish")
        assert outcome.settled is not None
        ended = {**outcome.others, outcome.attempt_id: outcome.settled}
        for row in attempts:
            if row.attempt_id in ended:
                self._count_one(ended[row.attempt_id], row.target.deployment, timed=timed)

    def _count_one(self, settled: Settled, deployment: str, *, timed: bool) -> None:
        seconds = (settled.duration_ms or 0.0) / 1000 if timed else None
        self._observer.on_call(deployment, settled.error_code or "done", seconds)
        self._observer.on_cost(deployment, settled.cost_usd)
        if settled.state == "unknown" and settled.error_code != HEDGE_LOST:
            self._observer.on_unknown(deployment, settled.error_code or "unknown")
        if settled.first_token_ms is not None:
            self._observer.on_first_token(deployment, settled.first_token_ms / 1000)
        if settled.usage is not None:
            self._observer.on_tokens(deployment, settled.usage)
