"""The stage runner: what happens to one delivered event, the same for every stage.

Decode, wait while a dependency is away, process within the time limit, publish and wait for the broker, and only
then acknowledge. No exception leaves ``take``: an event ends done, dead-lettered, or un-acknowledged.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

import structlog

from processors.answers import failure_of, final_answer
from processors.control import CANCELLED
from processors.event import Incoming, Output, Processor
from schemas.errors import (
    ConfigurationError,
    DependencyDownError,
    FencedError,
    HeadraceError,
    IndeterminateError,
    NotYetError,
    OversizedError,
    PermanentProviderError,
    PoisonError,
    ProviderError,
    RefusedError,
)
from schemas.json_view import to_json
from schemas.record import Record
from schemas.records import Answer, Cost, Failure, Timing
from streams.dead_letters import class_of, dead_letter, safe_message, safe_trace, without_value
from streams.decoding import Decoder
from streams.ending import answerable, place, unforeseen
from streams.gate import Released
from streams.headers import Headers, trace_id
from streams.holding import Holding, StagePause
from streams.outputs import Encoded, Publisher
from streams.producer import AUTHORIZATION
from streams.services import Services
from streams.slots import WeightedSlots
from streams.stages import Input, Stage

Message = Any  # faust.types.ConsumerMessage, which is untyped

# A processor that raises this often for one event will not stop doing so.
MAX_FAILURES = 3
FAILURE_BACKOFF_S = 0.2
# A dependency without a probe of its own is tried again after this long.
UNPROBED_PAUSE_S = 1.0
VERSION = "1"

log = structlog.get_logger(__name__)


class StageRunner:
    """Runs one input of a stage. ``take`` is called by ``concurrency`` actors at once."""

    def __init__(
        self,
        stage: Stage,
        source: Input,
        processor: Processor,
        services: Services,
        *,
        slots: WeightedSlots | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.stage = stage
        self.source = source
        self._processor = processor
        self._services = services
        self._slots = slots
        self._timeout_s = timeout_s or stage.timeout_s
        self._decoder = Decoder(source, services)
        self._publisher = Publisher(services)
        self.pause = StagePause(stage.name, services)
        self.holding = Holding(stage, source, services)
        self.labels = (stage.name, services.lane)
        # Steps forward that are no acknowledgement yet; liveness counts them.
        self.moved = 0
        self._draining = False
        self._busy = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.consumer: Any = None  # streams.transport.SafeConsumer, once the app has started

    def drain(self) -> None:
        """Take no further event. What is in process goes on; what waits for a slot, a gate or a resume is let go."""
        self._draining = True
        self.pause.release()
        if self._slots is not None:
            self._slots.release()

    async def take(self, event: Any) -> None:
        """Process one Faust event and acknowledge it. Raises nothing but cancellation."""
        if self._draining:
            await _until_cancelled()
        if not await self._settled(self._handle(event)):
            await _until_cancelled()

    async def _settled(self, work: Awaitable[None]) -> bool:
        """Whether the work ended in order, or was let go; an error that leaves it ends the process."""
        self._busy += 1
        self.idle.clear()
        try:
            await work
        except Released:
            self._count("released")
        except Exception as error:
            # A dead letter that can't be written, or a fault of our own: the event stays un-acknowledged.
            log.error("the worker stops", stage=self.stage.name, reason=safe_message(error), trace=safe_trace(error))
            self._services.crash(error)
            return False
        finally:
            self._busy -= 1
            if self._busy == 0:
                self.idle.set()
        return True

    async def _handle(self, event: Any) -> None:
        await self._unless_paused(event.message)
        self._services.failpoints.hit("before_ack")
        event.ack()

    async def _unless_paused(self, message: Message) -> None:
        """Process, once the stage is not paused and there is a slot. Raises ``Released`` while it waits for either."""
        while True:
            await self.pause.wait(lambda: self._owns(message))
            async with self._slots.slot(self.source.kind) if self._slots else nullcontext():
                # It may have been paused while the event waited for its slot.
                if not self.pause.closed:
                    with self.holding.in_hand():
                        return await self._process(message)

    async def _process(self, message: Message) -> None:
        started, first_failure = time.perf_counter(), self._services.clock.now()
        try:
            incoming = await self._decoder.decode(message)
        except Released:
            raise
        except Exception as error:
            # Whatever a producer's bytes and headers lead to is no reason to stop: it would come again.
            await self._bury(message, error, run="", attempts=1, first_failure=first_failure)
            return
        waited_ms = max(0.0, (first_failure - incoming.appended_at).total_seconds() * 1000)
        context = self._context(incoming.meta.tenant, incoming.meta.request_id, message.headers)
        with structlog.contextvars.bound_contextvars(**context):
            if self._services.log_content:
                log.info("event", record=to_json(incoming.record))
            with self.holding.in_process(incoming):
                outputs = await self._attempts(incoming, message)
                if outputs is None:
                    self._count("deferred")
                    return
                service_ms = (time.perf_counter() - started) * 1000
                timings = (*incoming.timings, Timing(stage=self.stage.name, waited_ms=waited_ms, service_ms=service_ms))
                encoded = await self._encode(incoming, outputs, message, timings)
                published = await self._publish(incoming, encoded, message, timings)
        self._measure(published, waited_ms / 1000, time.perf_counter() - started)

    async def _attempts(self, incoming: Incoming[Record], message: Message) -> Sequence[Output] | None:
        """Call the processor until it gives outputs or the event is given up; ``None`` where it was set aside."""
        failures, tries, first_failure = 0, 0, self._services.clock.now()
        needs = set(self.stage.dependencies)
        while True:
            if tries and self._draining:
                raise Released
            tries += 1
            waiting = self._wait(message, tuple(needs))
            await (self.holding.unless_cancelled(incoming, waiting) if self._services.gate.down else waiting)
            try:
                async with asyncio.timeout(self._timeout_s):
                    self.holding.check_cancelled(incoming)
                    if await self.holding.set_aside(incoming, message):
                        return None
                    return await self._processor(incoming)
            except DependencyDownError as error:
                # What only some of a stage's events need is known once one of them missed it.
                needs.add(error.dependency)
                await self._dependency_down(error)
            except FencedError as error:
                self._retried(error)
            except NotYetError as error:
                if await self._put_off(incoming, message, error):
                    return None
            except RefusedError as refusal:
                if not answerable(incoming):
                    return await self._give_up(incoming, message, refusal, failures + 1, first_failure)
                cancelled = refusal.code == CANCELLED
                self._count("cancelled" if cancelled else "refused")
                # The record that cancelled it may have come since the event was decoded.
                decided = replace(incoming, control_offset=self._services.control.offset) if cancelled else incoming
                return [self._final(decided, refusal.status, failure_of(refusal))]
            except (PoisonError, IndeterminateError, OversizedError) as error:
                return await self._give_up(incoming, message, error, failures + 1, first_failure)
            except Exception as error:
                failures += 1
                self._retried(error)
                log.warning("an attempt failed", error=type(error).__name__, failures=failures, at=place(error))
                if failures >= MAX_FAILURES or isinstance(error, PermanentProviderError):
                    return await self._failed(incoming, message, error, failures, first_failure)
                backoff = asyncio.sleep(FAILURE_BACKOFF_S * 2**failures * random.random())
                await self.holding.unless_cancelled(incoming, backoff)

    async def _put_off(self, incoming: Incoming[Record], message: Message, error: NotYetError) -> bool:
        """Whether the event was set aside; else it is tried again soon, to be ended or to wait on."""
        try:
            if await self.holding.put_off(incoming, message, error):
                return True
        except DependencyDownError as down:
            await self._dependency_down(down)
        await asyncio.sleep(min(error.wait_s, UNPROBED_PAUSE_S))
        return False

    async def _failed(
        self, incoming: Incoming[Record], message: Message, error: Exception, failures: int, first_failure: datetime
    ) -> Sequence[Output]:
        """End an event whose attempts are used up. A provider's failure leaves nothing to re-drive by hand."""
        if isinstance(error, ProviderError) and answerable(incoming):
            return [self._final(incoming, "failed", failure_of(error))]
        return await self._give_up(incoming, message, error, failures, first_failure)

    async def _encode(
        self, incoming: Incoming[Record], outputs: Sequence[Output], message: Message, timings: tuple[Timing, ...]
    ) -> list[Encoded]:
        try:
            return self._publisher.encode(outputs, timings)
        except (OversizedError, PoisonError) as error:
            ended = await self._give_up(incoming, message, error, 1, self._services.clock.now())
            # What was spent stays spent.
            costs = [output for output in outputs if isinstance(output, Cost)]
            return self._publisher.encode([*costs, *ended], ())

    async def _publish(
        self, incoming: Incoming[Record], encoded: Sequence[Encoded], message: Message, timings: tuple[Timing, ...]
    ) -> Sequence[Encoded]:
        """Publish, and return what was; what is refused for good ends in a dead letter and a short ``failed`` answer.

        So no event holds up its partition. A missing topic is for an operator to mend: that error ends the worker,
        and nothing is dropped.
        """
        first_failure = self._services.clock.now()
        try:
            await self._send(encoded, message, message.headers or [], timings)
            return encoded
        except (ConfigurationError, Released):
            raise
        except Exception as error:
            ended = await self._give_up(incoming, message, error, MAX_FAILURES, first_failure)
        costs = [item for item in encoded if isinstance(item.record, Cost)]
        try:
            last = [*costs, *self._publisher.encode(ended, ())]
            await self._send(last, message, [], ())
            return last
        except (ConfigurationError, Released):
            raise
        except Exception as error:
            log.error("the request's end could not be published", error=type(error).__name__, at=place(error))
            return []

    async def _send(
        self, encoded: Sequence[Encoded], message: Message, cause: Headers, timings: tuple[Timing, ...]
    ) -> None:
        """Send until the broker has acknowledged all, for as long as the event is ours.

        Raises the last error when the same outputs were refused ``MAX_FAILURES`` times.
        """
        needs = ["kafka", AUTHORIZATION]
        needs += ["postgres"] if any(isinstance(item.record, Answer) or item.bodies for item in encoded) else []
        failures = 0
        while encoded:
            await self._wait(message, needs)
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._publisher.publish(encoded, cause, timings)
                return
            except DependencyDownError as error:
                await self._dependency_down(error)
            except TimeoutError as error:
                self._retried(error)
            except ConfigurationError:
                raise
            except Exception as error:
                failures += 1
                self._retried(error)
                log.warning("outputs were refused", error=type(error).__name__, failures=failures, at=place(error))
                if failures >= MAX_FAILURES:
                    raise

    async def _give_up(
        self, incoming: Incoming[Record], message: Message, error: Exception, attempts: int, first_failure: datetime
    ) -> Sequence[Output]:
        """Write the dead letter, then end the request, if there is one, with a ``failed`` answer.

        An error may bring the outputs that end the request, e.g. with the costs of a call whose outcome is unknown.
        """
        await self._bury(message, error, run=incoming.meta.run, attempts=attempts, first_failure=first_failure)
        if isinstance(error, HeadraceError) and error.outputs:
            return [cast("Output", output) for output in error.outputs]
        if not answerable(incoming):
            return []
        failure = failure_of(error) if isinstance(error, HeadraceError) else unforeseen(self.stage.name, error)
        return [self._final(incoming, "failed", failure)]

    async def _bury(
        self, message: Message, error: Exception, *, run: str, attempts: int, first_failure: datetime
    ) -> None:
        """Write the dead letter. Raises when its topic can't be written: the worker stops and never drops."""
        services = self._services
        letter = dead_letter(
            message,
            error,
            prefix=services.prefix,
            lane=services.lane,
            run=run,
            stage=self.stage.name,
            attempts=attempts,
            first_failure=first_failure,
        )
        while True:
            await self._wait(message, ("kafka", AUTHORIZATION))
            try:
                await services.producer.send([letter])
                break
            except DependencyDownError as down:
                await self._dependency_down(down)
            except OversizedError:
                if letter.value is None:
                    raise
                letter = without_value(letter)
        error_class = class_of(error)
        services.metrics.dead_letters.labels(*self.labels, error_class).inc()
        self._count("dead_letter")
        where = {"topic": message.topic, "partition": message.partition, "offset": message.offset}
        log.warning("dead letter", stage=self.stage.name, error=type(error).__name__, error_class=error_class, **where)

    async def _wait(self, message: Message, dependencies: Sequence[str]) -> None:
        """Wait at the gate. Raises ``Released`` when the worker stops or the partition went to another."""
        await self._services.gate.wait(dependencies)
        if not self._owns(message):
            raise Released

    def _owns(self, message: Message) -> bool:
        return self.consumer is None or bool(self.consumer.owns(message))

    async def _dependency_down(self, error: DependencyDownError) -> None:
        self._retried(error)
        if not self._services.gate.report(error):
            await asyncio.sleep(UNPROBED_PAUSE_S)

    def _final(self, incoming: Incoming[Record], status: str, failure: Failure) -> Answer:
        return final_answer(
            incoming,
            stage=self.stage.name,
            stage_version=VERSION,
            status=status,
            failure=failure,
            now=self._services.clock.now(),
        )

    def _measure(self, encoded: Sequence[Encoded], waited_s: float, service_s: float) -> None:
        metrics = self._services.metrics
        metrics.waiting.labels(*self.labels).observe(waited_s)
        metrics.service.labels(*self.labels).observe(service_s)
        self._count("done")
        for item in encoded:
            if isinstance(item.record, Answer):
                metrics.answers.labels(*self.labels, item.record.status).inc()

    def _count(self, outcome: str) -> None:
        self._services.metrics.outcomes.labels(*self.labels, outcome).inc()

    def _retried(self, error: Exception) -> None:
        self._services.metrics.retries.labels(*self.labels, class_of(error)).inc()

    def _context(self, tenant: str, request_id: str, cause: Headers | None) -> dict[str, str | None]:
        return {
            "request_id": request_id,
            "tenant": tenant,
            "stage": self.stage.name,
            "lane": self._services.lane,
            "trace_id": trace_id(cause),
        }


async def _until_cancelled() -> None:
    await asyncio.get_running_loop().create_future()
