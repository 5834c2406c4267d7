"""Puts events that were set aside back on the topic they came from, once nothing holds them any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import structlog

from processors.admit.in_flight import Entering
from processors.deferred import Group, Taken
from schemas.errors import ConfigurationError, DependencyDownError
from streams.dead_letters import safe_message
from streams.gate import Released
from streams.producer import AUTHORIZATION, Outgoing
from streams.services import Services
from streams.topics import topic_name

# Between two looks at the table; a control record is looked at once it is read.
INTERVAL_S = 1.0
# The same, while requests wait for room in the stream.
EAGER_INTERVAL_S = 0.2
# The stage before which tenants with a cap wait.
ADMISSION = "admit"
# Events at a time: at the largest they weigh 50 MB.
BATCH = 50
# Cancels are looked up when they are read, and all of them again after this long: an event that another worker set
# aside at that very moment is found then.
CANCELS_AGAIN_S = 60.0
CANCELS_AT_A_TIME = 500
COUNT_INTERVAL_S = 15.0

log = structlog.get_logger(__name__)


class PutBack:
    """One stage's events. Every worker of the stage runs one; the store gives an event to one of them at a time.

    An event goes back with the same key, bytes and headers, so it has the same id; its row is deleted after the
    broker's acknowledgement. A cancelled or expired event goes back while its tenant or route is paused, to be ended
    by the stage. ``hold_s`` is how long another worker leaves what this one took.
    """

    def __init__(self, stage: str, services: Services, *, hold_s: float = 30.0) -> None:
        self._stage, self._services, self._hold_s = stage, services, hold_s
        self._labels = (stage, services.lane)
        self._cancels_seen = -1
        self._cancels_again = 0.0
        self._counted_at = 0.0
        # Somebody waits for room, which may be there at any moment.
        self._eager = False

    async def run(self) -> None:
        """Go on until the worker stops. Raises ``ConfigurationError`` when a topic is missing or forbidden."""
        gate, control = self._services.gate, self._services.control
        while True:
            try:
                await gate.wait(("postgres", "kafka", AUTHORIZATION))
                moved = await self.round()
                await self._count()
            except Released:
                return
            except DependencyDownError as error:
                moved = 0
                gate.report(error)
            if not moved:
                with suppress(TimeoutError):
                    async with asyncio.timeout(EAGER_INTERVAL_S if self._eager else INTERVAL_S):
                        await control.changed()

    async def round(self) -> int:
        """Put back a batch of everything that may go on; how many events that were.

        Blocks on Postgres and the broker. Raises ``DependencyDownError``, with rows left as they were.
        """
        self._eager = False
        moved = await self._cancelled()
        store, lane = self._services.deferred, self._services.lane
        moved += await self._put(
            "expired", await store.take_expired(lane, self._stage, limit=BATCH, hold_s=self._hold_s)
        )
        for tenant, route in await store.groups(lane, self._stage):
            if not self._held(tenant, route):
                moved += await self._put("resumed", await self._due((tenant, route)))
        return moved

    async def _due(self, group: Group) -> Sequence[Taken]:
        """What may go on of a group; before admission no more than its tenant has room for in the stream."""
        services, (tenant, _) = self._services, group
        cap = services.caps.get(tenant) if self._stage == ADMISSION else None
        limit = BATCH
        if cap is not None and services.in_flight is not None:
            limit = min(BATCH, await services.in_flight.room(services.lane, tenant, cap))
            self._eager = self._eager or limit == 0
        if not limit:
            return ()
        due = await services.deferred.take_due(services.lane, self._stage, group, limit=limit, hold_s=self._hold_s)
        if cap is not None and services.in_flight is not None and due:
            # Their places are taken now, so that nobody who comes later is let in before them. One that another worker
            # was quicker than goes on without, and is set aside again.
            over = services.clock.now() + timedelta(days=1)
            entering = [Entering(request_id=one.event.request_id, until=one.event.expires_at or over) for one in due]
            await services.in_flight.enter(services.lane, tenant, cap, entering, first=True)
        return due

    def _held(self, tenant: str, route: str) -> bool:
        control = self._services.control
        return control.paused("tenant", tenant) or control.paused("route", route)

    async def _cancelled(self) -> int:
        control, now = self._services.control, time.monotonic()
        if now >= self._cancels_again:
            self._cancels_seen, self._cancels_again = -1, now + CANCELS_AGAIN_S
        known, moved = control.offset, 0
        requests = [(cancel.tenant, cancel.request_id) for cancel in control.cancels(self._cancels_seen)]
        for start in range(0, len(requests), CANCELS_AT_A_TIME):
            part = requests[start : start + CANCELS_AT_A_TIME]
            while True:
                taken = await self._services.deferred.take_requests(
                    self._services.lane, self._stage, part, limit=BATCH, hold_s=self._hold_s
                )
                moved += await self._put("cancelled", taken)
                if len(taken) < BATCH:
                    break
        self._cancels_seen = known
        return moved

    async def _put(self, cause: str, taken: Sequence[Taken]) -> int:
        """Produce, wait for the broker, then delete. How many events it were."""
        if not taken:
            return 0
        self._services.failpoints.hit("after_deferred_taken")
        try:
            await self._services.producer.send([self._outgoing(one) for one in taken])
        except (DependencyDownError, ConfigurationError):
            raise
        except Exception:
            taken = await self._one_by_one(taken)
        self._services.failpoints.hit("after_deferred_produced")
        if taken:
            await self._services.deferred.done(taken)
        self._services.metrics.put_back.labels(*self._labels, cause).inc(len(taken))
        return len(taken)

    async def _one_by_one(self, taken: Sequence[Taken]) -> list[Taken]:
        """Those of a refused batch that the broker takes. The others keep their rows, and hold up nothing."""
        sent = []
        for one in taken:
            try:
                await self._services.producer.send([self._outgoing(one)])
            except (DependencyDownError, ConfigurationError):
                raise
            except Exception as error:
                event = one.event
                log.error("an event can't be put back", request_id=event.request_id, reason=safe_message(error))
            else:
                sent.append(one)
        return sent

    def _outgoing(self, one: Taken) -> Outgoing:
        event, services = one.event, self._services
        topic = topic_name(services.prefix, services.lane, event.topic_kind)
        return Outgoing(topic=topic, key=event.key, value=event.value, headers=list(event.headers))

    async def _count(self) -> None:
        if time.monotonic() - self._counted_at < COUNT_INTERVAL_S:
            return
        self._counted_at = time.monotonic()
        waiting = await self._services.deferred.waiting(self._services.lane, self._stage)
        metrics, now = self._services.metrics, self._services.clock.now()
        age = max(((now - each.oldest).total_seconds() for each in waiting), default=0.0)
        metrics.deferred.labels(*self._labels).set(sum(each.events for each in waiting))
        metrics.deferred_age.labels(*self._labels).set(max(0.0, age))
