"""The safe-commit transport: Faust's aiokafka driver with a commit that never passes an event in flight.

What differs from the driver, and why, is in ``docs/delivery.md``:

* the committed offset is the lowest that was delivered and not acknowledged (``streams.watermark``);
* on revocation acknowledged offsets are committed before Faust forgets them;
* going back to what is committed goes to the beginning of a partition of which nothing is, and nothing is handed on
  between a revocation and going back, nor what was fetched in another place;
* a commit that the broker did not take is tried again at the next interval, and never ends the worker;
* a worker that comes back to topics that have grown asks for a new assignment;
* it runs in the worker's own event loop (``streams.in_loop``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, KafkaTimeoutError
from aiokafka.structs import OffsetAndMetadata
from aiokafka.structs import TopicPartition as KafkaPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.utils.futures import notify

from streams.in_loop import InLoopConsumer, InLoopDelivery
from streams.unassigned import unassigned
from streams.watermark import Watermarks

LOOK_AGAIN_S = 1.0
# Of the time that Faust gives to going back.
SHARE_OF_TIMEOUT = 0.9
Message = Any  # faust.types.ConsumerMessage, which is untyped


class SafeConsumerThread(InLoopConsumer):
    """The owner of the aiokafka consumer; a failed commit is reported and not a crash."""

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        assigned = self.assignment()
        wanted = {KafkaPartition(*tp): OffsetAndMetadata(at, "") for tp, at in offsets.items() if tp in assigned}
        if not wanted:
            return False
        try:
            await self._ensure_consumer().commit(wanted)
        except (CommitFailedError, IllegalStateError, KafkaError) as error:
            self.log.warning("Offsets are not committed and will be again: %s", type(error).__name__)
            return False
        return True

    async def include_all(self) -> bool:
        """Ask for a new assignment where the group has partitions that nobody reads; False: not known yet."""
        consumer = self._ensure_consumer()
        try:
            left = await unassigned(consumer)
        except KafkaError:
            return False
        if left:
            self.log.info("A new assignment is asked for; nobody reads %s", sorted(left))
            consumer._coordinator.request_rejoin()
        return left is not None

    async def committed(self) -> dict[TP, int] | None:
        """Where every assigned partition is to be read from; from its beginning where nothing is committed. Blocks.

        None: the broker did not say.
        """
        consumer = self._ensure_consumer()
        ours = list(consumer.assignment())
        try:
            found = dict(zip(ours, await asyncio.gather(*map(consumer.committed, ours)), strict=True))
            bare = [tp for tp, offset in found.items() if offset is None or offset < 0]
            return found | (await consumer.beginning_offsets(bare) if bare else {})
        except KafkaError as error:
            self.log.warning("What is committed is asked for again: %s", type(error).__name__)
            return None

    def go_to(self, places: Mapping[TP, int]) -> None:
        """Read from ``places`` on, at once."""
        consumer = self._ensure_consumer()
        for tp, offset in places.items():
            consumer.seek(tp, offset)

    def unread(self, tp: TP) -> int:
        """Offsets between the next one to be handed on and the end; control records of transactions are no lag."""
        assignment = self._ensure_consumer()._subscription.subscription.assignment
        state = assignment.state_value(KafkaPartition(*tp)) if assignment is not None else None
        if state is None or state.highwater is None or not state.has_valid_position:
            return 0
        return max(0, int(state.highwater) - int(state.position))


class SafeConsumer(InLoopDelivery):
    """The consumer of one Faust app."""

    _thread: SafeConsumerThread

    def __init__(
        self, transport: Any, callback: Callable[[Message], Awaitable[None]], *args: Any, **kwargs: Any
    ) -> None:
        self.watermarks: Watermarks[TP] = Watermarks()
        # Told of partitions that were revoked or are read again; None: of all.
        self.forgotten: list[Callable[[set[TP] | None], None]] = []
        self._committed: dict[TP, int] = {}
        self._highest: dict[TP, int] = {}
        self._looked_for_more = False
        # Revocations and assignments so far.
        self._moves = 0
        # Events that this process has had before, under an earlier assignment.
        self.redelivered_total = 0

        async def deliver(message: Message) -> None:
            self._count(message)
            self.watermarks.deliver(message.tp, message.offset, message.timestamp or 0.0)
            await callback(message)

        super().__init__(transport, deliver, *args, **kwargs)

    def _new_consumer_thread(self) -> SafeConsumerThread:
        return SafeConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def owns(self, message: Message) -> bool:
        """Whether the message is still to be done here: its partition was not revoked since it was delivered."""
        return self.watermarks.holds(message.tp, message.offset)

    def unread(self, tp: TP) -> int:
        """Events of a partition that were not delivered yet, as far as the broker has told."""
        return self._thread.unread(tp)

    def lag(self) -> int:
        """Events on the assigned partitions that are not done, as far as the broker has told."""
        ahead = sum(self._thread.unread(tp) for tp in self.assignment())
        return ahead + self.watermarks.in_flight

    def _count(self, message: Message) -> None:
        highest = self._highest.get(message.tp, -1)
        self.redelivered_total += message.offset <= highest
        self._highest[message.tp] = max(highest, message.offset)

    def ack(self, message: Message) -> bool:
        """Note that a message is done. Without effect where its partition was revoked meanwhile."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        done = self.watermarks.ack(message.tp, message.offset)
        notify(self._waiting_for_ack)
        return done

    async def force_commit(self, *_topics: Any, **_transaction: Any) -> bool:
        """Commit the watermark of every partition where it moved."""
        ours = self.assignment()
        done = self.watermarks.committable().items()
        offsets = {tp: at for tp, at in done if tp in ours and self._committed.get(tp) != at}
        if not offsets or not await self._thread.commit(offsets):
            return False
        self._committed.update(offsets)
        return True

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Commit what is done, let Faust clear its queues, then forget the partitions."""
        self._lose_place()
        await self.force_commit()
        await super().on_partitions_revoked(revoked)
        self._forget(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """After the first assignment, see that the group left no partition out."""
        self._lose_place()
        await super().on_partitions_assigned(assigned, generation_id)
        if not self._looked_for_more:
            self._looked_for_more = True
            self.add_future(self._include_all())

    async def on_stop(self) -> None:
        """Commit what is done: Faust's own last commit only waits for one that is under way, and what came since."""
        await super().on_stop()
        await self.force_commit()

    def _lose_place(self) -> None:
        """Hand nothing on until ``perform_seek`` has gone back for the assignment that comes or came."""
        self._place = None
        self._moves += 1
        self.stop_flow()

    async def _include_all(self) -> None:
        while not await self._thread.call_thread(self._thread.include_all):
            await self.sleep(LOOK_AGAIN_S)

    async def perform_seek(self) -> None:
        """Go back to the committed offsets: all that was delivered since comes again. Blocks on the broker.

        Going back and forgetting what was delivered are one step: an event that came between them would be forgotten
        and not come again. When another assignment comes meanwhile it is left to that one's own.

        Raises ``KafkaTimeoutError`` where the broker does not say, which ends the worker: Faust would give up a little
        later without a word, and keep the partitions unread.
        """
        moves, most_s = self._moves, SHARE_OF_TIMEOUT * self.app.conf.broker_request_timeout
        try:
            async with asyncio.timeout(most_s):
                while (places := await self._thread.committed()) is None and not self.should_stop:
                    await self.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            raise KafkaTimeoutError(f"what is committed was not told within {most_s:g} s") from None
        if places is not None and moves == self._moves:
            self._thread.go_to(places)
            self._forget(None)
            self._place = object()

    def _forget(self, partitions: set[TP] | None) -> None:
        self.watermarks.drop(partitions)
        for tell in self.forgotten:
            tell(partitions)
        for tp in list(self._committed) if partitions is None else partitions:
            self._committed.pop(tp, None)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Gaps need no book-keeping here, and Faust's interval tree would grow with each of them."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's own detector of slow streams knows nothing of manual acks; ``/livez`` looks at progress."""


class SafeTransport(driver.Transport):
    """Names the consumer above as its own; set on ``app.transport`` before the app starts."""

    Consumer = SafeConsumer
