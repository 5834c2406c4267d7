"""What the stage does with an event whose call goes by batch: hand it over, wait, or take the reply."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta

from processors.batchapi.booking import Booking
from processors.batchapi.calls import BatchCalls
from processors.batchapi.entry import Item
from processors.batchapi.opening import at_batch_price
from processors.batchapi.port import BatchStore
from processors.batchapi.replies import BatchReplies
from processors.cache.caches import Asking
from processors.clock import Clock
from processors.complete.cancellation import Cancellation
from processors.complete.routes import Deployment, Route
from processors.event import Incoming
from processors.failpoints import Failpoints, Unarmed
from processors.journal import Busy, CallKey, Done, Ended, Granted, Journal
from processors.journal.protocol import CANCELLED, EXPIRED, unknown
from processors.routing import Pool, Seat
from schemas.errors import NotYetError
from schemas.records import Enrichment

# An event that waits for its batch is let go when that has its reply; it looks for itself after so long, to be safe.
_ASIDE_S = 3600.0
# The same for one that waits for another one's batch, and the longest where that goes by no batch.
_FOLLOWS_S, _LIVE_S = 900.0, 60.0
# While its item is being claimed, or another worker has its call.
_SOON_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """A call whose open attempt has a stored reply: made as any other, at this seat, which nobody has to take."""

    granted: Granted
    seat: Seat
    item: Item
    since: float
    cancellation: Cancellation


class Unhurried(Cancellation):
    """A request's cancellation that waits until the reply which is here and paid was read."""

    def __init__(self, whole: Cancellation, waits: Callable[[], bool]) -> None:
        self._whole, self._waits = whole, waits

    @property
    def requested(self) -> bool:
        return not self._waits() and self._whole.requested

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        async with nullcontext() if self._waits() else self._whole.scope():
            yield

    async def sleep(self, seconds: float) -> None:
        await self._whole.sleep(seconds)


class Handing:
    """Decides for one event at a time. ``owner`` is the worker, as in the journal."""

    def __init__(
        self,
        store: BatchStore,
        calls: BatchCalls,
        journal: Journal,
        replies: BatchReplies,
        booking: Booking,
        *,
        clock: Clock,
        lane: str,
        failpoints: Failpoints | None = None,
    ) -> None:
        self._store, self._calls, self._journal = store, calls, journal
        self.replies, self._booking = replies, booking
        self._clock, self._lane, self._failpoints = clock, lane, failpoints or Unarmed()
        # Whether there may be an item for an event: each is looked for then.
        self.asks = True

    async def take(
        self,
        incoming: Incoming[Enrichment],
        key: CallKey,
        route: Route,
        cancellation: Cancellation,
        *,
        pool: Pool,
        owner: str,
        asking: Asking | None = None,
    ) -> Adopted | Done | Ended | None:
        """A call with a stored reply, or one that a cache answers; ``None``: it is made, or was ended, as any other.

        Blocks for a few round trips at most. Raises ``NotYetError`` when it goes by batch and there is no reply yet: it
        is stored then, and the event may be set aside. Raises ``DependencyDownError``.
        """
        offered = any(one.batch is not None for one in route.deployments)
        if not self.asks or not offered or route.fan_out is not None:
            return None
        item = await self._store.item(key.call_id)
        if item is None:
            return await self._hand_over(incoming, key, route, cancellation, asking)
        over = cancellation.requested or self._expired(incoming)
        if item.state == "waiting":
            if over and await self._store.move(item.call_id, was="waiting", now="done"):
                return None
            raise self._later(item, soon=over)
        if item.state == "taken":
            raise self._later(item, soon=over)
        if item.state == "sent":
            if not over:
                raise self._later(item)
            if not await self._store.move(item.call_id, was="sent", now="withdrawn"):
                raise self._later(item, soon=True)
            self._failpoints.hit("after_batch_withdrawal")
            item = replace(item, state="withdrawn")
        if item.state == "returned":
            await self._store.move(item.call_id, was="returned", now="done")
        if item.state not in ("answered", "withdrawn"):
            return None
        return await self._adopt(item, route, cancellation, pool=pool, owner=owner)

    async def done(self, item: Item) -> None:
        """The journal has what became of the item's call: its input and reply are kept there."""
        await self._store.move(item.call_id, was="answered", now="done")

    def not_yet(self, item: Item) -> NotYetError:
        """Another worker has the call, and will book the same reply."""
        return self._later(item, soon=True)

    async def _adopt(
        self, item: Item, route: Route, cancellation: Cancellation, *, pool: Pool, owner: str
    ) -> Adopted | None:
        began = time.monotonic()
        granted = await self._calls.adopt(item, owner=owner)
        if isinstance(granted, Busy):
            raise self._later(item, soon=True)
        deployment = next((one for one in route.deployments if one.name == item.deployment), None)
        if granted is None or deployment is None:
            # Its outcome is booked; or its deployment is gone, and the attempt will count as lost.
            if item.state == "answered":
                await self.done(item)
            return None
        if item.state == "withdrawn":
            failure = CANCELLED if cancellation.requested else EXPIRED
            attempt = granted.attempt
            settled = unknown(attempt, error_code=failure.code)
            await self._journal.fail_attempt(granted.lease, attempt.attempt_id, settled, failure)
            return None
        if cancellation.requested:
            # The reply is here and paid, and nobody wants it: nothing else is sent.
            await self._booking.refuse(item, granted.attempt, granted.lease, deployment, CANCELLED)
            await self.done(item)
            return None
        member = pool.member(deployment.name)
        # Left already: it is nobody's place, and says nothing of how the deployment is now.
        seat = Seat(at_batch_price(deployment), member, member.keys.keys[0], False, 0, began, left=True)
        attempt_id = granted.attempt.attempt_id
        self._failpoints.hit("after_batch_adoption")
        return Adopted(
            granted=granted,
            seat=seat,
            item=item,
            # Trusted whatever happens before the reply is read: nothing is sent, and a later owner fences the booking.
            since=math.inf,
            cancellation=Unhurried(cancellation, lambda: self.replies.answers(attempt_id)),
        )

    async def _hand_over(
        self,
        incoming: Incoming[Enrichment],
        key: CallKey,
        route: Route,
        cancellation: Cancellation,
        asking: Asking | None,
    ) -> Done | Ended | None:
        """Store the call's item and raise ``NotYetError``, unless a cache answers it or it is for another way."""
        awaited = None if asking is None else await self._store.followed(key.call_id)
        deployment = self._lane_deployment(route)
        if deployment is None or cancellation.requested or not self._lives(incoming, deployment):
            return None
        if await self._journal.attempts_of(key) or await self._journal.outcome_of(key) is not None:
            # It was begun the other way.
            return None
        if asking is not None:
            answered = await self._from_cache(incoming, key, asking, awaited, f"batch/{deployment.name}")
            if answered is not None:
                return answered
        item = Item(
            key=key,
            deployment=deployment.name,
            route=route.name,
            event_id=incoming.meta.event_id,
            input=incoming.raw,
            control_offset=incoming.control_offset,
            expires_at=incoming.record.admission.expires_at,
        )
        await self._store.add(item)
        self._failpoints.hit("after_batch_item")
        raise self._later(item)

    async def _from_cache(
        self, incoming: Incoming[Enrichment], key: CallKey, asking: Asking, awaited: str | None, reason: str
    ) -> Done | Ended | None:
        """What answers the request without a call; ``None`` where that is its own to make.

        Raises ``NotYetError`` while an identical one's call is open.
        """
        claim = await asking.ahead(awaited)
        if isinstance(claim, Busy):
            leader = asking.awaited
            if leader and await self._store.follow(leader, key, incoming.meta.event_id):
                self._failpoints.hit("after_batch_follow")
                raise NotYetError(_FOLLOWS_S, reason)
            raise NotYetError(max(_SOON_S, min(claim.remaining_s, _LIVE_S)), reason)
        return claim if isinstance(claim, Done | Ended) else None

    def _lane_deployment(self, route: Route) -> Deployment | None:
        """The route's first own deployment that takes this lane's calls by batch."""
        own = route.own.deployments
        return next((one for one in own if one.batch is not None and self._lane in one.batch.lanes), None)

    def _lives(self, incoming: Incoming[Enrichment], deployment: Deployment) -> bool:
        assert deployment.batch is not None
        expires_at = incoming.record.admission.expires_at
        least = timedelta(seconds=deployment.batch.min_ttl_s)
        return expires_at is None or expires_at - self._clock.now() >= least

    def _expired(self, incoming: Incoming[Enrichment]) -> bool:
        expires_at = incoming.record.admission.expires_at
        return expires_at is not None and expires_at <= self._clock.now()

    def _later(self, item: Item, *, soon: bool = False) -> NotYetError:
        return NotYetError(_SOON_S if soon else _ASIDE_S, f"batch/{item.deployment}")
