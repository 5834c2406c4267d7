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
    """Hands fetched records to the app's queues. Nothing is made for a record whose queue has room but the call."""

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                handed = 0
                async for tp, message in self.getmany(timeout=FETCH_WAIT_S):
                    await self._hand_on(tp, message)
                    handed += 1
                await self._until_next_fetch(handed)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

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
        offset, read = message.offset, self._read_offset[tp]
        if read is not None and offset < read:
            return
        if self._has_room(tp):
            await self._put(tp, message)
        else:
            await self.wait_first(self._put(tp, message), self.suspend_flow.wait())

    async def _put(self, tp: TP, message: Message) -> None:
        await self.callback(message)
        # Not of one that was let go while it waited: it comes again.
        self._read_offset[tp] = message.offset

    def _has_room(self, tp: TP) -> bool:
        app: Any = self.app
        return app.flow_control.is_active() and not any(one.queue.full() for one in app.topics._tp_index[tp])
