"""Faust's Kafka consumer in the worker's own event loop, and the loop that hands on what it fetched.

As shipped every app has a thread with a loop of its own for its consumer. A worker has one app for each input of its
stages, and their threads and the main loop fight over one interpreter lock: each fetch, commit and heartbeat goes
through two queues and wakes two threads. In one loop a call is a call. What is awaited here never computes for long,
so that heartbeats keep their time (3 s, of a session of 30 s); what computes for long has no place on the loop anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from faust.sensors import Monitor
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.services import Service
from mode.utils.futures import maybe_async

# How long one look for records may last. Partitions whose queue has room again are asked for at the next look.
FETCH_WAIT_S = 1.0
# While a turn of the loop takes long, records are fetched some turns apart: several in one request to the broker
# instead of a request for each, which costs both sides more than what is in it.
BUSY_TURN_S = 0.002
TURNS_APART = 4
MOST_APART_S = 0.025
Message = Any  # faust.types.ConsumerMessage, which is untyped


class QuietMonitor(Monitor):
    """Faust's monitor without what it counts for every event and every second; a worker has metrics of its own."""

    def on_message_in(self, tp: TP, offset: int, message: Message) -> None:
        """Count nothing."""

    def on_stream_event_in(self, tp: TP, offset: int, stream: Any, event: Any) -> None:
        """Count nothing."""

    def track_tp_end_offset(self, tp: TP, offset: int) -> None:
        """Keep nothing."""

    def _get_tasks(self) -> Iterable[Any]:
        return ()


class InLoopConsumer(driver.AIOKafkaConsumerThread):
    """What Faust calls the consumer's thread, without a thread: starts, stops and is called in the worker's loop."""

    wait_for_shutdown = False

    def __init__(self, consumer: Any, *, loop: asyncio.AbstractEventLoop | None = None, **kwargs: Any) -> None:
        loop = loop or asyncio.get_event_loop()
        super().__init__(consumer, loop=loop, thread_loop=loop, **kwargs)

    async def start(self) -> None:
        """Connect and join the group. Blocks on the broker; raises what the client raises."""
        self._thread_started.set()
        await Service.start(self)

    async def stop(self) -> None:
        """Leave the broker; what was fetched and not handed on comes again."""
        if self._started.is_set():
            await Service.stop(self)

    async def on_stop(self) -> None:
        """Stop the client."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        """Call ``fun`` here and now."""
        return await maybe_async(fun(*args, **kwargs))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Tell the consumer."""
        await self.consumer.on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Tell the consumer."""
        await self.consumer.on_partitions_assigned(assigned, generation_id)

    def _get_tasks(self) -> Iterable[Any]:
        """No keep-alive: there is no thread that could be asleep."""
        return ()

    def _stopped_set(self) -> None:
        self._stopped.set()


class InLoopDelivery(driver.Consumer):
    """Hands fetched records to the app's queues. Nothing is made for a record whose queue has room but the call.

    ``_place`` names where reading stands: another one each time it goes back, None from a revocation or an assignment
    until it has. Records are handed on only in the place that they were fetched in.
    """

    _place: object | None = None

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._until_next_fetch(await self._drain_once())
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _drain_once(self) -> int:
        """Hand on what one look brings, and say how many. Blocks on the broker, a full queue and a rebalance."""
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
        place, handed = self._place, 0
        records = await self._getmany(active_partitions=self._get_active_partitions(), timeout=FETCH_WAIT_S)
        if records and place is not self._place:
            # Nobody knows whether reading went back before these were fetched or after. Where it still has to, it will.
            if self._place is not None:
                await self.perform_seek()
            return 0
        for tp, record in self.scheduler.iterate(records):
            await self._hand_on(tp, self._to_message(tp, record))
            handed += 1
            if place is not self._place:
                break
        return handed

    async def _until_next_fetch(self, handed: int) -> None:
        """Let others have their turn; where that takes long, or nobody waits for these, let more records gather."""
        app: Any = self.app
        began = self.loop.time()
        await asyncio.sleep(0)
        turn_s = self.loop.time() - began
        pause_s = min(turn_s * TURNS_APART, MOST_APART_S) if turn_s > BUSY_TURN_S else 0.0
        # What came in full is a backlog: the next is there already.
        if 0 < handed < app.conf.broker_max_poll_records:
            pause_s = max(pause_s, app.gather_s)
        if pause_s:
            await asyncio.sleep(pause_s)

    async def _hand_on(self, tp: TP, message: Message) -> None:
        """Put a record into its queue. Blocks while that is full, until there is room or the flow is suspended."""
        if self._has_room(tp):
            await self.callback(message)
        else:
            await self.wait_first(self.callback(message), self.suspend_flow.wait())

    def resume_flow(self) -> None:
        """Let records be fetched; not while reading still has to go back for a newer assignment."""
        if self._place is not None:
            super().resume_flow()

    def _has_room(self, tp: TP) -> bool:
        app: Any = self.app
        return app.flow_control.is_active() and not any(one.queue.full() for one in app.topics._tp_index[tp])
