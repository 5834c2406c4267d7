"""The stage release: all streams that are open, and what becomes of those that stand still or are too many."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from processors.event import Incoming, Output
from processors.release.calls import Calls
from processors.release.chunks import ChunkWriter
from processors.release.policy import ReleasePolicy
from processors.release.stream import Stream
from schemas.errors import PoisonError, RefusedError
from schemas.records import Chunk, Delta, Meta

# Tenant, run and request id.
StreamKey = tuple[str, str, str]
# Streams that ended and are still known as such: late deltas of theirs are skipped without a question.
REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Step:
    """What one delta, or the lack of any, led to.

    ``part``: the delta belongs to an open stream and is done only with it. ``over``: all of the stream is done once
    these chunks are acknowledged. ``first``: the stream's first public text is among them.
    """

    key: StreamKey
    chunks: Sequence[Chunk] = ()
    part: bool = False
    over: bool = False
    first: bool = False


@dataclass(slots=True)
class _Open:
    stream: Stream
    meta: Meta
    partition: int
    began_at: float
    touched_at: float
    appended_at: datetime
    deltas: int = 0
    shown: bool = False


class Release:
    """From deltas to chunks. Events of one request have to come in order, one at a time.

    All state is in memory and can be built again from a stream's first delta; whoever runs this must not
    acknowledge a delta before its stream is over.
    """

    def __init__(self, *, policy: ReleasePolicy, calls: Calls) -> None:
        self.policy = policy
        self._calls = calls
        self._streams: OrderedDict[StreamKey, _Open] = OrderedDict()
        self._over: OrderedDict[StreamKey, int] = OrderedDict()
        # Calls that the journal says have ended, though nothing was heard of their streams' ends here.
        self._ended_calls: OrderedDict[StreamKey, int] = OrderedDict()
        self.held_characters = 0
        self.held_deltas = 0

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    async def __call__(self, incoming: Incoming[Delta]) -> Sequence[Output]:
        """The chunks that a delta makes ready, for a run over recorded deltas."""
        step = await self.take(incoming, at=0.0)
        return step.chunks

    async def take(self, incoming: Incoming[Delta], *, at: float) -> Step:
        """One delta at the monotonic time ``at``.

        Asks the journal only for a delta from the middle of a stream that is not open. Raises ``PoisonError`` for a
        delta that can't be one, and ``DependencyDownError``.
        """
        delta, meta = incoming.record, incoming.meta
        _check(delta)
        key = key_of(meta)
        if key in self._over:
            return Step(key)
        if key not in self._streams and await self._skips(key, delta, incoming):
            return Step(key)
        opened = self._streams.get(key)
        if opened is None:
            stream = Stream(delta, regions=self.policy.phone_regions)
            opened = _Open(stream, meta, incoming.position[0], at, at, incoming.appended_at)
            self._streams[key] = opened
        opened.touched_at, opened.appended_at = at, incoming.appended_at
        return self._feed(key, opened, delta)

    def _feed(self, key: StreamKey, opened: _Open, delta: Delta) -> Step:
        before = opened.stream.held
        try:
            chunks = opened.stream.feed(delta)
        except RefusedError as error:
            raise PoisonError(str(error)) from None
        opened.deltas += 1
        self.held_deltas += 1
        self.held_characters += opened.stream.held - before
        first = not opened.shown and any(chunk.kind == "text" for chunk in chunks)
        opened.shown = opened.shown or first
        if opened.stream.ended:
            self._remember(key, opened)
        return Step(key, chunks, part=True, over=opened.stream.ended, first=first)

    async def _skips(self, key: StreamKey, delta: Delta, incoming: Incoming[Delta]) -> bool:
        """Whether a delta without a stream leads to nothing."""
        if delta.final:
            return False  # It holds all there is to say.
        if delta.aborted:
            return True
        if delta.sequence == 0:
            return False
        if key not in self._ended_calls and await self._calls.ended(incoming.meta):
            _limited(self._ended_calls, key, incoming.position[0])
        return key in self._ended_calls

    async def stalled(self, at: float, behind: Callable[[int, datetime], bool]) -> Sequence[Step]:
        """End the streams that stood still for too long.

        ``behind``: whether deltas of a partition that were written soon after this time may still be to come. A
        stream whose call has ended is only let go: the delta that closes it is on its way, or was there before.
        """
        idle = [
            (key, opened)
            for key, opened in self._streams.items()
            if at - opened.touched_at > self.policy.stall_s and not behind(opened.partition, opened.appended_at)
        ]
        steps = []
        for key, opened in idle:
            ended = await self._calls.ended(opened.meta)
            if self._streams.get(key) is not opened or at - opened.touched_at <= self.policy.stall_s:
                continue
            if ended:
                self._close(key)
                steps.append(Step(key, over=True))
            else:
                steps.append(self._fail(key, opened, "stream_stalled"))
        return steps

    def crowded(self) -> Iterator[Step]:
        """End streams, those that began first, until what is held is within its bounds."""
        policy = self.policy
        while self._streams and (
            len(self._streams) > policy.most_streams
            or self.held_characters > policy.most_characters
            or self.held_deltas > policy.most_deltas
        ):
            key, opened = next(iter(self._streams.items()))
            yield self._fail(key, opened, "stream_overloaded")

    def touch(self, at: float) -> None:
        """Take it that every stream moved just now: nothing could, because the stage itself stood still."""
        for opened in self._streams.values():
            opened.touched_at = at

    def give_up(self, step: Step, code: str) -> Step:
        """End the stream of a step whose chunks can't be sent."""
        opened = self._streams.get(step.key)
        if opened is not None:
            self._remember(step.key, opened)
        broken = step.chunks[0]
        writer = ChunkWriter(meta=broken.meta, user=broken.user, session=broken.session)
        return replace(step, chunks=(writer.failed(broken.attempt, code),), over=True, first=False)

    def drop(self, partitions: Collection[int] | None) -> list[StreamKey]:
        """Forget all that came from these partitions, which are another's now or are read again; None: from all."""
        gone = [key for key, opened in self._streams.items() if partitions is None or opened.partition in partitions]
        for key in gone:
            self._close(key)
        for known in (self._over, self._ended_calls):
            for key in [key for key, partition in known.items() if partitions is None or partition in partitions]:
                del known[key]
        return gone

    def _fail(self, key: StreamKey, opened: _Open, code: str) -> Step:
        chunks = opened.stream.fail(code)
        self._remember(key, opened)
        return Step(key, chunks, part=True, over=True)

    def _remember(self, key: StreamKey, opened: _Open) -> None:
        self._close(key)
        _limited(self._over, key, opened.partition)

    def _close(self, key: StreamKey) -> None:
        opened = self._streams.pop(key, None)
        if opened is not None:
            self.held_characters -= opened.stream.held
            self.held_deltas -= opened.deltas


def key_of(meta: Meta) -> StreamKey:
    """Which stream an event belongs to."""
    return meta.tenant, meta.run, meta.request_id


def _limited(known: OrderedDict[StreamKey, int], key: StreamKey, partition: int) -> None:
    known[key] = partition
    if len(known) > REMEMBERED:
        known.popitem(last=False)


def _check(delta: Delta) -> None:
    if not delta.meta.request_id:
        raise PoisonError("meta.request_id: a delta belongs to a request; this one names none")
    if delta.attempt < 0 or delta.sequence < 0 or delta.start_char < 0:
        raise PoisonError("attempt, sequence and start_char count from 0; one of them is negative")
    if delta.final and not delta.aborted and delta.start_char != 0:
        raise PoisonError("start_char: the delta that closes a stream holds its whole text, from character 0 on")
