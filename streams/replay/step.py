"""One step of a run: batches of events through a stage's processor, published, and only then noted as done.

What is noted is how far each partition is. A batch that was cut off is done again whole; what of it had been published
is known by its event ids and not published twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any, cast

from processors.answers import failure_of, final_answer
from processors.event import Incoming, Output, Processor, Recorded
from schemas.codec import Codec
from schemas.errors import (
    ConfigurationError,
    DependencyDownError,
    FencedError,
    HeadraceError,
    NotYetError,
    OversizedError,
    PermanentProviderError,
    PoisonError,
    RefusedError,
)
from schemas.record import Record, changed
from schemas.records import Answer, Cost, Meta, Timing
from streams.claims import DATAREF, Claims
from streams.dead_letters import dead_letter, without_value
from streams.ending import answerable, unforeseen
from streams.headers import event_headers
from streams.outputs import LARGEST_BYTES, OVERHEAD_BYTES, key_of, topic_kind
from streams.producer import Outgoing
from streams.reading import Entry
from streams.replay.backfill import Backfill, is_over
from streams.replay.corrections import Corrections, Feedback
from streams.replay.events import Events
from streams.replay.limits import LimitReachedError, PassedOverError, unless_stopped
from streams.replay.remembered import Remembered
from streams.replay.run import BURIED, DUPLICATE, OVER_BUDGET, PUBLISHED, REFUSED, SKIPPED, Place, Run
from streams.replay.selection import Selection
from streams.replay.sending import Sender
from streams.replay.tally import Tally, after, amounts, further, record_of
from streams.runner import MAX_FAILURES, VERSION
from streams.stages import Stage
from streams.topics import MAX_DEAD_LETTER_BYTES, topic_name

# The loop gets its turn, to renew the lease, at least this often.
BREATH = 64
# A dependency that is away is asked again after this long, up to so often.
PAUSE_S, PATIENCE = 1.0, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPorts:
    """What a step works with. ``known`` are ids of outputs that are in the lane already; ``feedback`` how far the lane
    has stored what its consumers said, where answers are to be replaced.

    ``prepare`` is given the events of a batch that are taken, ``begin`` each of them before it is begun: False ends the
    run in order, ``PassedOverError`` leaves the event out; ``done`` each with what it cost.
    """

    run: Run
    stage: Stage
    prefix: str
    tenants: frozenset[str]
    events: Events
    processor: Processor
    codec: Codec
    sender: Sender
    now: Callable[[], Any]
    selection: Selection | None = None
    claims: Claims | None = None
    backfill: Backfill | None = None
    feedback: Feedback | None = None
    known: frozenset[str] = frozenset()
    concurrency: int = 1
    prepare: Callable[[Sequence[Incoming[Any]]], Awaitable[list[Incoming[Any]]]] | None = None
    begin: Callable[[Incoming[Any]], Awaitable[bool]] | None = None
    done: Callable[[Incoming[Any], Decimal], None] | None = None


@dataclass(slots=True)
class _Done:
    outputs: tuple[Output, ...]
    outcome: str
    letter: Outgoing | None = None
    service_ms: float = 0.0


_SKIPPED, _DUPLICATE, _OVER_BUDGET = _Done((), SKIPPED), _Done((), DUPLICATE), _Done((), OVER_BUDGET)


@dataclass(slots=True)
class _Item:
    """One record of a batch; ``incoming`` None: it can't be read. ``done`` None: not begun."""

    entry: Entry
    incoming: Incoming[Any] | None
    done: _Done | None = None

    @property
    def taken(self) -> bool:
        return self.done is None


class Step:
    """Runs the batches of a step."""

    def __init__(self, ports: StepPorts) -> None:
        self._ports = ports
        self.seen = Remembered()
        self._stop = asyncio.Event()
        # Its limit on costs is reached; or why nothing more may be begun.
        self.exhausted = False
        self._failed: BaseException | None = None

    @property
    def stopping(self) -> bool:
        """Whether nothing is begun any more; what is begun is finished."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Stop in order."""
        self._stop.set()

    def noted(self) -> None:
        """All that was known to be in the lane already belongs to events that are noted by now."""
        self._ports = replace(self._ports, known=frozenset())

    async def batch(self, entries: Sequence[Entry], places: Mapping[tuple[str, int], Place]) -> list[Place]:
        """Put a batch through; the places as they are once all of it is acknowledged.

        Blocks on whatever the stage does, then on the broker. Raises ``DependencyDownError`` when something was away
        for a minute, ``ConfigurationError`` for what an operator has to mend, ``FencedError``; nothing is noted then.
        """
        items = await self._chosen(entries)
        await self._processed([item for item in items if item.taken])
        if self._ports.feedback is not None and any(item.done and item.done.outputs for item in items):
            await self._patiently(Corrections(self._ports.feedback).stored)
        tallies: dict[tuple[str, int], Tally] = {}
        for item in items:
            entry = item.entry
            if item.done is None:
                # The run is to stop: this event and what follows it was not begun.
                break
            self._ports.sender.send(await self._sendable(item))
            tally = tallies.setdefault((entry.topic, entry.partition), Tally(entry.offset))
            tally.next = entry.offset + 1
            tally.counts[item.done.outcome] += 1
            for output in item.done.outputs:
                spent, avoided = amounts(output)
                tally.cost_usd += spent
                tally.avoided_usd += avoided
        written = await self._ports.sender.settle() if tallies else {}
        if self._failed is not None:
            # What was begun is finished and sent by now: what it cost is told, whoever has the run.
            raise self._failed
        moved = [after(places[place], tally, written) for place, tally in tallies.items()]
        if tallies and not self._ports.known:
            # Nothing of the others is in the lane that is not noted: a resume need not look that far back.
            still = [one for key, one in places.items() if key not in tallies and one.left]
            moved += [replace(one, written=further(one.written, written)) for one in still]
        return moved

    async def _chosen(self, entries: Sequence[Entry]) -> list[_Item]:
        """Every entry, with what is settled about it before its stage sees it."""
        items, events = [], self._ports.events
        for number, entry in enumerate(entries):
            if number % BREATH == 0:
                await asyncio.sleep(0)
            try:
                decoded = events.at_hand(entry) or await self._patiently(partial(events.decode, entry))
                items.append(_Item(entry, decoded))
            except PoisonError as error:
                items.append(_Item(entry, None, _Done((), BURIED, self._letter(entry, error))))
        open_ = [item for item in items if item.incoming is not None]
        selection = self._ports.selection
        if selection is not None:
            asked = [(item.entry, item.incoming) for item in open_ if item.incoming is not None]
            takes = await self._patiently(partial(selection.takes, asked))
            for item, yes in zip(open_, takes, strict=True):
                item.done = None if yes else _SKIPPED
        taken, ours = [], []
        for item in open_:
            if item.done is None and item.incoming is not None:
                if self.seen.add(item.incoming.meta.event_id):
                    taken.append(item)
                    ours.append(events.ours(item.incoming))
                else:
                    item.done = _DUPLICATE
        prepare = self._ports.prepare
        ready = ours if prepare is None else await self._patiently(partial(prepare, ours))
        for item, incoming in zip(taken, ready, strict=True):
            item.incoming = incoming
        return items

    async def _processed(self, items: Sequence[_Item]) -> None:
        """Put the events through their stage, until they are done or the run is to stop."""
        if self._ports.concurrency == 1:
            for number, item in enumerate(items):
                if number % BREATH == 0:
                    await asyncio.sleep(0)
                if not await self._may_begin(item):
                    break
                item.done = item.done or await self._one(item)
            return
        slots = asyncio.Semaphore(self._ports.concurrency)
        tasks: list[asyncio.Task[None]] = []

        async def held(item: _Item) -> None:
            try:
                item.done = await self._one(item)
            except BaseException:
                self.stop()
                raise
            finally:
                slots.release()

        for item in items:
            await slots.acquire()
            if not await self._may_begin(item):
                break
            if item.taken:
                tasks.append(asyncio.ensure_future(held(item)))
            else:
                slots.release()
        # What was sent is finished even where another event failed, so that it is in the journal.
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _may_begin(self, item: _Item) -> bool:
        if self.stopping:
            return False
        begin = self._ports.begin
        if begin is not None and item.incoming is not None:
            asked = await unless_stopped(begin(item.incoming), self._stop)
            failed = None if asked is None else asked.exception()
            if isinstance(failed, PassedOverError):
                item.done = _OVER_BUDGET
            elif asked is not None and (failed is not None or not asked.result()):
                self.exhausted, self._failed = failed is None, failed
                self.stop()
        return not self.stopping

    async def _one(self, item: _Item) -> _Done | None:
        assert item.incoming is not None
        started = time.perf_counter()
        try:
            done = await self._attempts(item.entry, item.incoming)
        except LimitReachedError:
            self.exhausted = True
            self.stop()
            return None
        if self._ports.done is not None:
            self._ports.done(item.incoming, sum((amounts(one)[0] for one in done.outputs), Decimal(0)))
        done.service_ms = (time.perf_counter() - started) * 1000
        return done

    async def _attempts(self, entry: Entry, incoming: Incoming[Any]) -> _Done:
        """What the stage gives for the event, or what ends it, as a worker would end it."""
        failures = 0
        while True:
            try:
                return _Done(tuple(await self._patiently(lambda: self._ports.processor(incoming))), PUBLISHED)
            except RefusedError as refusal:
                return self._refused(entry, incoming, refusal)
            except (PoisonError, OversizedError) as error:
                return self._given_up(entry, incoming, error)
            except (ConfigurationError, DependencyDownError, LimitReachedError):
                raise
            except (FencedError, NotYetError) as error:
                if self.stopping:
                    raise DependencyDownError("a deployment", str(error)) from error
                await asyncio.sleep(PAUSE_S)
            except Exception as error:
                if isinstance(error, HeadraceError) and error.outputs:
                    return self._given_up(entry, incoming, error)
                failures += 1
                if failures >= MAX_FAILURES or isinstance(error, PermanentProviderError):
                    return self._given_up(entry, incoming, error)

    async def _patiently(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """The result, once what is needed is there again; raises what it lacks when that takes too long."""
        for tried in range(PATIENCE):
            try:
                return await work()
            except DependencyDownError:
                if tried == PATIENCE - 1 or self.stopping:
                    raise
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("unreachable")

    def _refused(self, entry: Entry, incoming: Incoming[Any], refusal: RefusedError) -> _Done:
        if not answerable(incoming):
            return self._given_up(entry, incoming, refusal)
        return _Done((self._final(incoming, refusal.status, failure_of(refusal)),), REFUSED)

    def _given_up(self, entry: Entry, incoming: Incoming[Any], error: Exception) -> _Done:
        outputs = tuple(cast("Output", one) for one in error.outputs) if isinstance(error, HeadraceError) else ()
        if not outputs and answerable(incoming):
            known = isinstance(error, HeadraceError)
            failure = failure_of(error) if known else unforeseen(self._ports.stage.name, error)  # type: ignore[arg-type]
            outputs = (self._final(incoming, "failed", failure),)
        return _Done(outputs, BURIED, self._letter(entry, error))

    def _final(self, incoming: Incoming[Any], status: str, failure: Any) -> Answer:
        name, now = self._ports.stage.name, self._ports.now()
        return final_answer(incoming, stage=name, stage_version=VERSION, status=status, failure=failure, now=now)

    def _letter(self, entry: Entry, error: Exception) -> Outgoing:
        ports = self._ports
        letter = dead_letter(
            replace(entry, headers=tuple((name, value or b"") for name, value in entry.headers)),
            error,
            prefix=ports.prefix,
            lane=ports.run.lane,
            run=ports.run.run,
            stage=ports.stage.name,
            attempts=1,
            first_failure=ports.now(),
        )
        return (
            without_value(letter) if len(letter.value or b"") > MAX_DEAD_LETTER_BYTES - 2 * OVERHEAD_BYTES else letter
        )

    async def _sendable(self, item: _Item) -> list[Outgoing]:
        """As ``_outgoing``; an event whose outputs no topic takes ends as a worker would end it."""
        try:
            return await self._outgoing(item)
        except (OversizedError, PoisonError) as error:
            assert item.done is not None and item.incoming is not None
            costs = tuple(one for one in item.done.outputs if isinstance(record_of(one), Cost))
            item.done = self._given_up(item.entry, item.incoming, error)
            # What was spent stays spent.
            item.done.outputs = (*costs, *item.done.outputs)
        return await self._outgoing(item)

    async def _outgoing(self, item: _Item) -> list[Outgoing]:
        """The records to send for an event; none that is in the lane already."""
        ports, done, entry = self._ports, item.done, item.entry
        assert done is not None
        sent = [] if done.letter is None else [done.letter]
        if item.incoming is None:
            return sent
        timings = (*item.incoming.timings, Timing(stage=ports.stage.name, service_ms=done.service_ms))
        cause = [(name, value) for name, value in entry.headers if value is not None]
        for output in done.outputs:
            record = record_of(output)
            lane = ports.run.lane
            if isinstance(record, Answer):
                record = changed(record, timings=timings)
                if ports.backfill is not None:
                    accepted_at = item.incoming.meta.accepted_at or entry.time
                    late = is_over(accepted_at, item.incoming.record.request.ttl_ms, ports.now())
                    # Before it is final.
                    self._parts(record, ports.codec.encode(record))
                    revised = await self._patiently(partial(ports.backfill.revise, record, over=late))
                    if revised is None:
                        continue
                    record, lane = revised, ports.run.source_lane
            meta: Meta = record.meta  # type: ignore[attr-defined]
            if meta.event_id in ports.known:
                continue
            value = output.value if isinstance(output, Recorded) else ports.codec.encode(record)
            record, value, refs = await self._parted(record, value)
            headers = event_headers(record, meta, time=ports.now(), cause=cause, timings=timings)
            headers += [(DATAREF, ref.encode()) for ref in refs[:1]]
            kind = topic_kind(record)
            topic = topic_name(ports.prefix, lane, kind)
            sent.append(Outgoing(topic, key_of(record).encode(), value, headers))
            if lane == ports.run.source_lane and kind == "answers" and meta.tenant in ports.tenants:
                sent.append(replace(sent[-1], topic=f"{topic}.{meta.tenant}"))
        return sent

    async def _parted(self, record: Record, value: bytes) -> tuple[Record, bytes, list[str]]:
        """The output as its topic takes it, once the texts that it can't hold are stored."""
        record, value, bodies = self._parts(record, value)
        claims = self._ports.claims
        if bodies and claims is not None:
            meta: Meta = record.meta  # type: ignore[attr-defined]
            await self._patiently(lambda: claims.store(meta.tenant, bodies))
        return record, value, list(bodies)

    def _parts(self, record: Record, value: bytes) -> tuple[Record, bytes, Mapping[str, bytes]]:
        claims = self._ports.claims
        if len(value) <= LARGEST_BYTES:
            return record, value, {}
        if claims is None:
            raise OversizedError(f"{type(record).__name__} is {len(value)} bytes; a topic takes {LARGEST_BYTES}")
        return claims.parted(record, value, LARGEST_BYTES)
