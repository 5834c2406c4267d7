"""The runner of a stage with state across events: a stream's deltas are acknowledged when all of the stream is done.

So a restart, or another worker, reads every open stream from its first delta and builds it again. Acknowledging at a
safe place within a stream would not do: what is committed is the minimum over all requests of a partition, so a
rebuild could begin inside another request's text.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import Future
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from faust.types import TP
from structlog.contextvars import bound_contextvars

from processors.event import Incoming
from processors.release.stage import Release, Step, StreamKey
from schemas.errors import ConfigurationError, DependencyDownError, HeadraceError, OversizedError, PoisonError
from schemas.json_view import to_json
from schemas.record import Record
from streams.gate import Released
from streams.headers import Headers, trace_id
from streams.producer import AUTHORIZATION, Outgoing
from streams.runner import FAILURE_BACKOFF_S, MAX_FAILURES, Message, StageRunner
from streams.services import Services
from streams.stages import Input, Stage
from streams.topics import topic_name

TICK_S = 1.0
# Without these no stream goes on.
NEEDS = frozenset({"kafka", "postgres"})

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Sending:
    """What a stream's end waits for: ``events`` are those of its deltas, ``posts`` what was not confirmed yet."""

    events: list[Any] = field(default_factory=list)
    posts: deque[tuple[Outgoing, Future[Any]]] = field(default_factory=deque)

    @property
    def message(self) -> Message:
        return self.events[-1].message

    @property
    def cause(self) -> Headers:
        return self.message.headers or []

    def prune(self) -> None:
        """Let go of what was confirmed."""
        while self.posts and self.posts[0][1].done() and self.posts[0][1].exception() is None:
            self.posts.popleft()


class WindowRunner(StageRunner):
    """Runs the release. ``take`` is called by one actor; ``run`` ends the streams that stand still."""

    def __init__(
        self, stage: Stage, source: Input, release: Release, services: Services, *, timeout_s: float | None = None
    ) -> None:
        super().__init__(stage, source, release, services, timeout_s=timeout_s)
        self._release = release
        self._sending: dict[StreamKey, _Sending] = {}
        self._finishing: set[asyncio.Task[bool]] = set()
        # Append time of the last delta that was delivered, by partition.
        self._newest: dict[int, datetime] = {}

    async def run(self) -> None:
        """End streams that stand still, for ever. Time in which the stage could not go on does not count."""
        while True:
            await asyncio.sleep(TICK_S)
            await self._settled(self.expire())

    async def expire(self) -> None:
        """End the streams that have stood still for too long by now."""
        if self._draining:
            return
        now = time.monotonic()
        if self.pause.closed or NEEDS & self._services.gate.down.keys():
            self._release.touch(now)
            return
        try:
            steps = await self._release.stalled(now, self._behind)
        except DependencyDownError as error:
            await self._dependency_down(error)
            return
        for step in steps:
            await self._cut_short(step, "a stream stood still and is ended")
        self._measure_held()

    def forget(self, partitions: set[TP] | None) -> None:
        """Drop the streams of partitions that are another's now, or are read again from what was committed."""
        for key in self._release.drop(None if partitions is None else {tp.partition for tp in partitions}):
            self._sending.pop(key, None)
        self._measure_held()

    async def _handle(self, event: Any) -> None:
        message = event.message
        await self.pause.wait(lambda: self._owns(message))
        if not self._owns(message):
            raise Released
        with self.holding.in_hand():
            await self._take_up(event)

    async def _take_up(self, event: Any) -> None:
        message = event.message
        started, now = time.perf_counter(), self._services.clock.now()
        try:
            incoming = await self._decoder.decode(message)
        except Released:
            raise
        except Exception as error:
            with bound_contextvars(lane=self._services.lane, trace_id=trace_id(message.headers)):
                await self._bury(message, error, run="", attempts=1, first_failure=now)
            event.ack()
            return
        self._newest[message.partition] = incoming.appended_at
        context = self._context(incoming.meta.tenant, incoming.meta.request_id, message.headers)
        with bound_contextvars(**context):
            if self._services.log_content:
                log.info("event", record=to_json(incoming.record))
            step = await self._step(incoming, message)
            self.moved += 1
            if step is None or not step.part:
                event.ack()
                return
            sending = self._sending.setdefault(step.key, _Sending())
            sending.events.append(event)
            await self._advance(step)
        for crowded in self._release.crowded():
            await self._cut_short(crowded, "too many streams are open; the one that began first is ended")
        self._measure_step(step, incoming, started, (now - incoming.appended_at).total_seconds())

    async def _step(self, incoming: Incoming[Any], message: Message) -> Step | None:
        """What the delta leads to; None for one that ended in a dead letter."""
        failures, needs, first_failure = 0, set(self.stage.dependencies), self._services.clock.now()
        while True:
            await self._wait(message, tuple(needs))
            try:
                async with asyncio.timeout(self._timeout_s):
                    step = await self._release.take(incoming, at=time.monotonic())
                if not self._owns(message):
                    # Revoked while the journal was asked: what was built since is another's.
                    self.forget({TP(message.topic, message.partition)})
                    raise Released
                return step
            except Released:
                raise
            except DependencyDownError as error:
                needs.add(error.dependency)
                await self._dependency_down(error)
            except Exception as error:
                failures += 1
                self._retried(error)
                if isinstance(error, PoisonError) or failures >= MAX_FAILURES:
                    run = incoming.meta.run
                    await self._bury(message, error, run=run, attempts=failures, first_failure=first_failure)
                    return None
                await asyncio.sleep(FAILURE_BACKOFF_S)
            if self._draining:
                raise Released

    async def _cut_short(self, step: Step, why: str) -> None:
        """Log why a stream ends before its last delta, and send what ends it."""
        tenant, _, request_id = step.key
        context = self._context(tenant, request_id, self._sending[step.key].cause)
        with bound_contextvars(**context), self.holding.in_hand():
            log.warning(why, failed=bool(step.chunks))
            await self._advance(step)

    async def _advance(self, step: Step) -> None:
        """Send a step's chunks, without waiting for the broker; once the stream is over, see to its end."""
        sending = self._sending[step.key]
        if step.chunks:
            try:
                outgoing = self._publisher.prepare(step.chunks, sending.cause)
            except OversizedError:
                step = self._release.give_up(step, "stream_oversized")
                outgoing = self._publisher.prepare(step.chunks, sending.cause)
            await self._wait(sending.message, ("kafka", AUTHORIZATION))
            sending.posts.extend(zip(outgoing, await self._services.producer.post(outgoing), strict=True))
            sending.prune()
            self._measure_chunks(step)
        if step.over and self._sending.get(step.key) is sending:
            del self._sending[step.key]
            self._begin_finish(sending)

    def _begin_finish(self, sending: _Sending) -> None:
        """Finish a stream on the side. It is in hand from now on: a drain waits for it, though not for open streams."""
        held = ExitStack()
        held.enter_context(self.holding.in_hand())
        task = asyncio.ensure_future(self._settled(self._finish(sending)))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        task.add_done_callback(lambda _: held.close())

    async def _finish(self, sending: _Sending) -> None:
        """Wait until every chunk of a stream is acknowledged, then acknowledge its deltas."""
        try:
            await self._confirm(sending)
        except (ConfigurationError, Released):
            raise
        except HeadraceError as error:
            # Refused for good: waiting mends nothing, and the answer has the text.
            now = self._services.clock.now()
            await self._bury(sending.message, error, run="", attempts=1, first_failure=now)
        self._services.failpoints.hit("before_ack")
        for event in sending.events:
            event.ack()
        self._count("done")

    async def _confirm(self, sending: _Sending) -> None:
        results = await asyncio.gather(*(future for _, future in sending.posts), return_exceptions=True)
        left = [
            one for (one, _), result in zip(sending.posts, results, strict=True) if isinstance(result, BaseException)
        ]
        while left:
            await self._wait(sending.message, ("kafka", AUTHORIZATION))
            try:
                # The same ids and bytes; consumers put what comes late or twice in its place.
                await self._services.producer.send(left)
                return
            except DependencyDownError as error:
                await self._dependency_down(error)

    def _behind(self, partition: int, appended_at: datetime) -> bool:
        """Whether deltas that were written within a stall's time after this one may still be unread."""
        newest = self._newest.get(partition, appended_at)
        if (newest - appended_at).total_seconds() > self._release.policy.stall_s or self.consumer is None:
            return False
        topic = topic_name(self._services.prefix, self._services.lane, self.source.kind)
        return bool(self.consumer.unread(TP(topic, partition)))

    def _measure_step(self, step: Step, incoming: Incoming[Record], started: float, waited_s: float) -> None:
        metrics = self._services.metrics
        metrics.waiting.labels(*self.labels).observe(max(0.0, waited_s))
        metrics.service.labels(*self.labels).observe(time.perf_counter() - started)
        if step.first and incoming.meta.accepted_at is not None:
            waited = (self._services.clock.now() - incoming.meta.accepted_at).total_seconds()
            metrics.first_chunk.labels(self.labels[1]).observe(max(0.0, waited))
        self._measure_held()

    def _measure_chunks(self, step: Step) -> None:
        for chunk in step.chunks:
            self._services.metrics.chunks.labels(self.labels[1], chunk.kind).inc()

    def _measure_held(self) -> None:
        metrics, lane = self._services.metrics, self.labels[1]
        metrics.open_streams.labels(lane).set(self._release.open_streams)
        metrics.held_characters.labels(lane).set(self._release.held_characters)
