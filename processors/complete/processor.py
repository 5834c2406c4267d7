"""The stage itself: one enrichment in; its costs and its completion, or its failed answer, out."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from processors.age import too_old
from processors.batchapi.handing import Adopted, Handing
from processors.cache.caches import Asking, Caches
from processors.clock import Clock
from processors.complete.call import Caller
from processors.complete.cancellation import Cancellation
from processors.complete.cascade import beginning
from processors.complete.complexity import complexity_of, route_of_class
from processors.complete.deltas import DeltaSink
from processors.complete.fan_out import FanOuts
from processors.complete.given import Given
from processors.complete.live import Pace
from processors.complete.observer import CallObserver, NullObserver
from processors.complete.places import Places
from processors.complete.purse import Guard, Purse
from processors.complete.reconcile import HttpReconciler, Reconciler
from processors.complete.retry import Backoff
from processors.complete.routes import Route
from processors.complete.samples import Sample
from processors.complete.target import check_time, offer_at
from processors.complete.task import Task
from processors.complete.tasks import Tasks, key_of
from processors.complete.unresolved import Settler
from processors.complete.unwritten import Unwritten
from processors.control import ControlView, cancelled_error
from processors.evaluate.replies import ReplyScorer
from processors.event import Incoming, Output
from processors.failpoints import Failpoints, Unarmed
from processors.journal import (
    Busy,
    CallKey,
    Done,
    Ended,
    Expired,
    Granted,
    Journal,
    LeaseKeeper,
    Offer,
)
from processors.journal.entry import WORKER_LOST
from processors.journal.protocol import EXPIRED
from processors.model.port import ModelClient
from processors.routing import Pool, Seat, Unavailable
from processors.routing.observer import PoolObserver
from processors.routing.spare import Spare
from schemas.codec import Codec
from schemas.errors import (
    FencedError,
    NotYetError,
    PermanentProviderError,
    RefusedError,
)
from schemas.records import Enrichment

# What an attempt of the stage keeps for booking and publishing after its call.
_BOOKING_S = 2.0
_SHORTEST_WAIT_S = 0.05
_LONGEST_WAIT_S = 1.0


class Complete:
    """Asks a model, at most once for each request unless an outcome is unknown; see ``processors.journal``.

    ``owner`` names one life of one worker: new with every start. ``timeout_s`` is the stage's T. A request older
    than ``horizon`` is paid nothing for: the journal may have forgotten it. Call ``start`` before the first event and
    ``stop`` after the last.

    A request that streams has its text sent to ``deltas`` meanwhile; without that port nothing streams. A request that
    is cancelled before its call was answered ends ``failed: cancelled``: nothing is sent any more, and what was sent
    is closed and booked. An answer that the journal has goes on, because it is paid.
    """

    def __init__(
        self,
        journal: Journal,
        client: ModelClient,
        *,
        routes: Mapping[str, Route],
        codec: Codec,
        clock: Clock,
        control: ControlView,
        owner: str,
        deltas: DeltaSink | None = None,
        pace: Pace | None = None,
        timeout_s: float = 120.0,
        observer: CallObserver | None = None,
        failpoints: Failpoints | None = None,
        backoff: Backoff | None = None,
        random_: random.Random | None = None,
        horizon: timedelta | None = None,
        caches: Caches | None = None,
        guard: Guard | None = None,
        pool_observer: PoolObserver | None = None,
        reconciler: Reconciler | None = None,
        batches: Handing | None = None,
        scorer: ReplyScorer | None = None,
        spare: Spare | None = None,
    ) -> None:
        """Raises ``ConfigurationError`` when T is shorter than a lease and a call."""
        deployments = {one.name: one for route in routes.values() for one in route.deployments}
        for deployment in deployments.values():
            check_time(deployment, journal.lease_s, timeout_s, booking_s=_BOOKING_S)
        self._journal, self._routes, self._clock = journal, routes, clock
        self._timeout_s, self._control = timeout_s, control
        self._tasks = Tasks(routes, codec, clock, can_stream=deltas is not None, scorer=scorer)
        self._given = Given(self._tasks, codec)
        self._horizon, self._caches, self._guard = horizon, caches, guard or Guard.none(clock)
        self._observer, self._batches = observer or NullObserver(), batches
        self._random = random_ or random.Random()
        self._unwritten, failpoints = Unwritten(journal), failpoints or Unarmed()
        self.keeper = LeaseKeeper(journal, owner=owner, then=self._unwritten.book_all)
        # Routes that share a deployment share what is known of it, and its limits.
        self.pool = Pool(deployments.values(), observer=pool_observer, random_=self._random, spare=spare)
        self._places = Places(self.pool, clock)
        self._caller = Caller(
            journal,
            client,
            keeper=self.keeper,
            unwritten=self._unwritten,
            clock=clock,
            observer=self._observer,
            failpoints=failpoints,
            backoff=backoff or Backoff(),
            random_=self._random,
            sink=deltas,
            pace=pace or Pace(),
            places=self._places,
            settler=Settler(reconciler or HttpReconciler(), journal, self._unwritten, clock),
        )
        self._fan_outs = FanOuts(
            journal, codec, self._tasks, self._caller, owner=owner, scorer=scorer, failpoints=failpoints
        )

    def start(self) -> None:
        """Begin to keep leases. Does not block."""
        self.keeper.start()

    async def stop(self) -> None:
        """Stop keeping leases."""
        await self.keeper.stop()

    async def __call__(self, incoming: Incoming[Enrichment]) -> Sequence[Output]:
        """One event; a redelivery gives the same outputs with the same bytes, and buys nothing.

        Blocks for a slot of the deployment, for the lease of another worker, and for the call and its retries.
        Raises ``RefusedError`` (expired or cancelled before any spend, unreadable input), ``PermanentProviderError``
        (no such route or model, and no outcome booked), ``IndeterminateError`` and ``CrashLoopError`` (both with costs
        and answer in ``outputs``), ``NotYetError`` (no deployment for long), and ``DependencyDownError``.
        """
        ends = time.monotonic() + self._timeout_s - _BOOKING_S
        key = key_of(incoming)
        await self._unwritten.book_kept(key)
        late = too_old(incoming.meta, self._horizon, self._clock.now())
        if late is not None:
            # What was paid is given out all the same; nothing is paid any more.
            known = await self._journal.outcome_of(key)
            if known is None:
                raise late
            return await self._known(incoming, key, known)
        try:
            offer = self._tasks.offer(incoming)
        except PermanentProviderError:
            # The settings may have changed since the call was made: what was paid is given out all the same.
            known = await self._journal.outcome_of(key)
            if known is None:
                raise
            return await self._known(incoming, key, known)
        earlier = await self._journal.earlier_result(key, offer.input_hash) if key.run else None
        if earlier is not None:
            # A dead letter that was sent once more: what it asks was paid for before.
            return self._given.reused(incoming, key, earlier)
        classed = self._classed(incoming.record, offer)
        asking = None if self._caches is None else self._caches.asking(incoming, offer, classed)
        purse = self._guard.of(incoming, key)
        samples: tuple[Sample, ...] = ()
        cancellation = Cancellation(self._control, key.tenant, key.request_id)
        if self._tasks.route(incoming.record).fan_out is not None:
            claim, samples = await self._fanned(incoming, offer, ends, cancellation, purse)
        else:
            handed = await self._from_batch(incoming, key, ends, cancellation, asking, purse)
            claim = await self._ended(incoming, offer, ends, cancellation, asking, purse, handed=handed)
            if not isinstance(claim, Expired):
                samples = await self._fan_outs.samples_of(key, claim)
        if isinstance(claim, Expired):
            await purse.refuse(incoming)
            if cancellation.requested:
                raise cancelled_error()
            raise RefusedError(EXPIRED.code, EXPIRED.message, status="expired")
        return await purse.settled(incoming, claim, self._given.outputs, samples)

    async def _fanned(
        self,
        incoming: Incoming[Enrichment],
        offer: Offer,
        ends: float,
        cancellation: Cancellation,
        purse: Purse,
    ) -> tuple[Done | Ended | Expired, tuple[Sample, ...]]:
        """What a request that is fanned out has ended with; its samples reserve nothing, because it does for all."""
        route, unbudgeted = self._tasks.route(incoming.record), Guard.none(self._clock)
        await self._fan_outs.check(incoming.record, offer.key, route)
        reserved = await purse.reserve(offer, incoming.record, route)
        while isinstance(reserved, Busy):
            await cancellation.sleep(reserved.remaining_s)
            reserved = await purse.reserve(offer, incoming.record, route)

        async def call(asked: Incoming[Enrichment], own: Offer, number: int) -> Done | Ended | Expired:
            await self._unwritten.book_kept(own.key)
            nothing = unbudgeted.of(asked, own.key)
            return await self._ended(asked, own, ends, cancellation, None, nothing, sample=number)

        def task_of(granted: Granted) -> Task:
            none = Unavailable(0.0, "outage", route.deployment.name)
            return self._tasks.task(incoming, granted, none, ends, cancellation)

        return await self._fan_outs.run(incoming, reserved, route, call=call, task_of=task_of)

    async def _known(self, incoming: Incoming[Enrichment], key: CallKey, claim: Done | Ended) -> Sequence[Output]:
        """What was paid for, though nothing is paid any more."""
        return self._given.outputs(incoming, key, claim, await self._fan_outs.samples_of(key, claim))

    async def _ended(
        self,
        incoming: Incoming[Enrichment],
        offer: Offer,
        ends: float,
        cancellation: Cancellation,
        asking: Asking | None,
        purse: Purse,
        *,
        handed: Done | Ended | None = None,
        sample: int | None = None,
    ) -> Done | Ended | Expired:
        """What a call has ended with, after it was made if need be; ``handed``: what is known of it already."""
        wait_s = _SHORTEST_WAIT_S
        while True:
            claim = handed or await self._claim(incoming, offer, ends, cancellation, asking, purse, sample)
            if asking is not None:
                await asking.settle(claim)
            if isinstance(claim, Done | Ended) and claim.input_hash != offer.input_hash:
                self._observer.on_input_drift()
            if isinstance(claim, Done | Ended | Expired):
                return claim
            if isinstance(claim, Busy):
                # Outside the slot: who waits for another's call must not keep a third one from calling.
                pause_s = self._random.uniform(0.5, 1.0) * min(wait_s, max(claim.remaining_s, wait_s / 2))
                await cancellation.sleep(pause_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    async def _from_batch(
        self,
        incoming: Incoming[Enrichment],
        key: CallKey,
        ends: float,
        cancellation: Cancellation,
        asking: Asking | None,
        purse: Purse,
    ) -> Done | Ended | None:
        """What a call ended with whose reply came by batch or cache; ``None`` where it is made now, or has ended.

        Raises ``NotYetError`` when it goes by batch and has to wait.
        """
        if self._batches is None:
            return None
        route = self._tasks.route(incoming.record)
        pool, owner = self.pool, self.keeper.owner
        adopted = await self._batches.take(incoming, key, route, cancellation, pool=pool, owner=owner, asking=asking)
        if not isinstance(adopted, Adopted):
            return adopted
        affordable, own = await purse.holds_all(incoming.record, route), adopted.cancellation
        task = self._tasks.task(incoming, adopted.granted, adopted.seat, ends, own, affordable=affordable)
        with self._batches.replies.holding(adopted.item):
            await self._make(adopted.granted, task, adopted.seat, since=adopted.since)
        known = await self._journal.outcome_of(key)
        if known is None:
            raise self._batches.not_yet(adopted.item)
        await self._batches.done(adopted.item)
        return known

    async def _claim(
        self,
        incoming: Incoming[Enrichment],
        offer: Offer,
        ends: float,
        cancellation: Cancellation,
        asking: Asking | None,
        purse: Purse,
        sample: int | None,
    ) -> Done | Ended | Busy | Expired | None:
        """What the journal says; ``None`` after a call of ours, when it has to be asked once more."""
        expires_at = incoming.record.admission.expires_at
        expired = expires_at is not None and expires_at <= self._clock.now()
        if expired or cancellation.requested:
            # Never granted, so no slot is needed: a backlog of such requests drains as fast as Postgres answers.
            unwanted = replace(offer, expired=expired, cancelled=cancellation.requested)
            claim = await self._journal.claim(unwanted, owner=self.keeper.owner)
            return None if isinstance(claim, Granted) else claim
        route = self._tasks.route(incoming.record, sample=sample)
        latest = ends - max(one.total_timeout_s for one in route.deployments)
        # Outside the slot, too: who waits for another request's answer keeps nobody from calling.
        served = None if asking is None else await asking.claim(latest)
        if served is not None:
            return None if isinstance(served, Granted) else served
        rows = () if route.cascade is None else await self._journal.attempts_of(offer.key)
        go = beginning(route, rows)
        stands = go.cause == "cascade" and await self._journal.kept(offer.key) is not None
        async with self._places.seat(route, go, incoming.record, cancellation=cancellation, latest=latest) as seat:
            if isinstance(seat, Unavailable):
                known = await self._without(seat, offer, asking, ends=stands or route.last_resort is not None)
                if known is not None:
                    return known
            if seat is None or (rows and beginning(route, await self._journal.attempts_of(offer.key)) != go):
                # Cancelled; or the call's owner, who is gone by now perhaps, asked a stronger model meanwhile.
                return None
            served = None if asking is None else await asking.claim(latest)
            if served is not None:
                return None if isinstance(served, Granted) else served
            where = route.deployment if isinstance(seat, Unavailable) else seat.deployment
            placed = offer_at(offer, where, incoming, at=self._clock.now())
            escalated, record = go.cause == "cascade", incoming.record
            reserved, since = await purse.reserve(placed, record, route, escalated=escalated), time.monotonic()
            if isinstance(reserved, Busy):
                return reserved
            claim = await self._journal.claim(reserved, owner=self.keeper.owner)
            if not isinstance(claim, Granted):
                return claim
            if asking is not None:
                asking.called()
            try:
                affordable = purse.holds_stronger
                task = self._tasks.task(incoming, claim, seat, ends, cancellation, affordable=affordable, sample=sample)
                await self._make(claim, task, seat, since=since)
            except NotYetError:
                if asking is not None:
                    await asking.put_off()
                raise
        # Outside the slot: what became of it is read, not claimed.
        return await self._journal.outcome_of(offer.key)

    async def _without(
        self, none: Unavailable, offer: Offer, asking: Asking | None, *, ends: bool
    ) -> Done | Ended | None:
        """What the call has ended with, which needs no deployment; ``None`` to end it without one, as it ``ends`` then.

        Raises ``NotYetError`` when it has to wait for one.
        """
        known = await self._journal.outcome_of(offer.key)
        if known is None and not none.denied and not ends:
            if asking is not None:
                await asking.put_off()
            raise self._places.set_aside(none)
        return known

    def _classed(self, enrichment: Enrichment, offer: Offer) -> Route:
        """The route that the request takes, which is counted where it goes by how hard the request is."""
        route = self._routes[offer.target.route]
        if route.complexity is not None:
            self._observer.on_complexity(route.name, complexity_of(enrichment, route.complexity).name)
        return route_of_class(route, enrichment)

    async def _make(self, granted: Granted, task: Task, seat: Seat | Unavailable, *, since: float) -> None:
        """Make the call, or end one for which there is no deployment."""
        for row in granted.earlier:
            # Those of the owner before: both of a call that was hedged.
            if row.error_code == WORKER_LOST and row.epoch == granted.lease.epoch - 1:
                self._observer.on_unknown(row.target.deployment, WORKER_LOST)
        # Fenced: a later owner has the call; ours was discarded and booked. Theirs is waited for.
        with suppress(FencedError):
            if granted.over is not None:
                await self._caller.failed(granted, task, granted.over, since=since)
            elif isinstance(seat, Seat):
                await self._caller.run(granted, task, since=since)
            else:
                code = "key_refused" if seat.denied else "deployment_unavailable"
                await self._caller.unsent(granted, task, code, since=since)
