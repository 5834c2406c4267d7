"""What an operator's pauses and cancels mean to the events of one stage: wait, be set aside, or end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from processors.control import cancelled_error
from processors.deferred import Deferred
from processors.event import Incoming
from schemas.errors import NotYetError
from schemas.ids import request_event_id
from schemas.record import Record
from schemas.records import Admission, Admitted, Answer, Enrichment, Request
from streams.gate import Released
from streams.services import Services
from streams.stages import Effect, Input, Stage
from streams.topics import topic_name

Message = Any  # faust.types.ConsumerMessage, which is untyped

# How soon a waiting event notices that its partition went to another worker, or that this one stops.
TICK_S = 0.5


class StagePause:
    """Where the events of a paused stage wait: without a slot, a transaction or an attempt, for as long as it takes."""

    def __init__(self, stage: str, services: Services) -> None:
        self._stage, self._control = stage, services.control
        self._released = False

    @property
    def closed(self) -> bool:
        """Whether the stage is paused now."""
        return self._control.paused("stage", self._stage)

    def release(self) -> None:
        """Let go of all that waits, now and later."""
        self._released = True

    async def wait(self, ours: Callable[[], bool]) -> None:
        """Return when the stage is not paused. Raises ``Released`` when the worker stops or the event is not ours."""
        while self.closed:
            if self._released or not ours():
                raise Released
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._control.changed()


class Holding:
    """Decides for one event at a time. Only stages that can end a request look at cancels."""

    def __init__(self, stage: Stage, source: Input, services: Services) -> None:
        self._stage, self._source, self._services = stage, source, services
        # A stage that pays asks its journal first: what was spent has to be told, cancelled or not.
        self._ends = Answer in stage.outputs and stage.effect is not Effect.PAYS
        self._events = 0
        self._tenants: Counter[str] = Counter()
        self._routes: Counter[str] = Counter()

    @contextmanager
    def in_hand(self) -> Iterator[None]:
        """Count an event from when the stage takes it until it is done."""
        self._events += 1
        try:
            yield
        finally:
            self._events -= 1

    @contextmanager
    def in_process(self, incoming: Incoming[Record]) -> Iterator[None]:
        """Count an event for its tenant and route, from when they are known."""
        tenant, route = incoming.meta.tenant, _route(incoming)
        self._tenants[tenant] += 1
        self._routes[route] += 1
        try:
            yield
        finally:
            _less(self._tenants, tenant)
            _less(self._routes, route)

    def figures(self) -> dict[str, Any]:
        """What is in process: ``events`` in all, and by ``tenants`` and ``routes``, at most one name an event."""
        routes = {name: count for name, count in self._routes.items() if name}
        return {"events": self._events, "tenants": dict(self._tenants), "routes": routes}

    def check_cancelled(self, incoming: Incoming[Record]) -> None:
        """Raises the ``RefusedError`` that ends a cancelled request. Does not block."""
        if self._ends and self._cancelled(incoming):
            raise cancelled_error()

    async def unless_cancelled(self, incoming: Incoming[Record], waiting: Coroutine[Any, Any, None]) -> None:
        """Wait for ``waiting``, but no longer than until the request is cancelled. Raises what ``waiting`` raises."""
        if not self._ends or not _asked_here(incoming, self._services.lane):
            return await waiting
        meta = incoming.meta
        work = asyncio.ensure_future(waiting)
        cancel = asyncio.ensure_future(self._services.control.until_cancelled(meta.tenant, meta.request_id))
        try:
            await asyncio.wait((work, cancel), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            for task in (work, cancel):
                task.cancel()
            await asyncio.wait((work, cancel))
        return None

    async def set_aside(self, incoming: Incoming[Record], message: Message) -> bool:
        """Store the event where its tenant or route is paused. True: it is stored, and may be acknowledged.

        Not stored is one that has to end: a cancelled or expired one. Blocks on Postgres where there is a pause;
        raises ``DependencyDownError``.
        """
        record = incoming.record
        if not self._stage.defers or not isinstance(record, Admitted | Enrichment):
            return False
        reason = self._paused(incoming.meta.tenant, record.admission.route)
        expires_at = record.admission.expires_at
        over = expires_at is not None and expires_at <= self._services.clock.now()
        if reason is None or over or self._cancelled(incoming):
            return False
        await self._services.deferred.store(self._deferred(incoming, record, message, reason))
        self._services.failpoints.hit("after_deferral")
        return True

    async def put_off(self, incoming: Incoming[Record], message: Message, error: NotYetError) -> bool:
        """Store an event that its processor can't take before some time. True: it is stored, and may be acknowledged.

        Not stored is what has to end: a cancelled or expired event. Blocks on Postgres; raises ``DependencyDownError``.
        """
        record, wait_s = incoming.record, error.wait_s
        if isinstance(record, Request) and self._stage.puts_off:
            put_off = self._put_off_request(incoming, record, message, error)
        elif isinstance(record, Admitted | Enrichment) and self._stage.defers:
            put_off = self._deferred(incoming, record, message, error.reason)
        else:
            return False
        over = put_off.expires_at is not None and put_off.expires_at <= self._services.clock.now()
        if over or self._cancelled(incoming):
            return False
        await self._services.deferred.store(replace(put_off, wait_s=wait_s))
        self._services.failpoints.hit("after_deferral")
        return True

    def _paused(self, tenant: str, route: str) -> str | None:
        control = self._services.control
        if control.paused("tenant", tenant):
            return f"tenant/{tenant}"
        return f"route/{route}" if control.paused("route", route) else None

    def _cancelled(self, incoming: Incoming[Record]) -> bool:
        meta = incoming.meta
        asked = _asked_here(incoming, self._services.lane)
        return asked and self._services.control.cancelled(meta.tenant, meta.request_id)

    def _put_off_request(
        self, incoming: Incoming[Record], request: Request, message: Message, error: NotYetError
    ) -> Deferred:
        """A request that is not admitted yet. Its own event id is whatever its producer made up: it is derived."""
        admission = Admission(route=request.route or "", priority=request.priority, expires_at=error.expires_at)
        put_off = self._deferred(
            incoming, Admitted(meta=incoming.meta, request=request, admission=admission), message, error.reason
        )
        meta, services = incoming.meta, self._services
        own_id = request_event_id(tenant=meta.tenant, lane=services.lane, request_id=meta.request_id)
        # A tenant's request goes back to the tenant's own topic.
        kind = message.topic.removeprefix(topic_name(services.prefix, services.lane, ""))
        return replace(put_off, event_id=own_id, topic_kind=kind)

    def _deferred(
        self, incoming: Incoming[Record], record: Admitted | Enrichment, message: Message, reason: str
    ) -> Deferred:
        meta, admission = incoming.meta, record.admission
        return Deferred(
            lane=self._services.lane,
            stage=self._stage.name,
            run=meta.run,
            event_id=meta.event_id,
            topic_kind=self._source.kind,
            key=message.key,
            # As it was delivered: texts that were too large for a topic are still elsewhere.
            value=message.value or b"",
            headers=tuple(message.headers or ()),
            tenant=meta.tenant,
            route=admission.route,
            priority=admission.priority,
            request_id=meta.request_id,
            accepted_at=meta.accepted_at or incoming.appended_at,
            expires_at=admission.expires_at,
            reason=reason,
            control_offset=self._services.control.offset,
        )


def in_process(holdings: Iterable[tuple[str, Holding]]) -> dict[str, dict[str, Any]]:
    """The figures by stage, summed over its inputs. For the worker's report, which ``headrace drain`` reads."""
    found: dict[str, dict[str, Any]] = {}
    for stage, holding in holdings:
        mine = holding.figures()
        sums = found.setdefault(stage, {"events": 0, "tenants": {}, "routes": {}})
        sums["events"] += mine["events"]
        for kind in ("tenants", "routes"):
            for name, count in mine[kind].items():
                sums[kind][name] = sums[kind].get(name, 0) + count
    return found


def _asked_here(incoming: Incoming[Record], lane: str) -> bool:
    """Whether the event belongs to a request of this lane. What came the wrong way is admission's to refuse."""
    return bool(incoming.meta.request_id) and (not isinstance(incoming.record, Request) or incoming.meta.lane == lane)


def _route(incoming: Incoming[Record]) -> str:
    admission = getattr(incoming.record, "admission", None)
    return admission.route if admission is not None else ""


def _less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
