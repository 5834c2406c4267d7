"""The work of a step in one process: its stage built as for a worker, and its batches put through one by one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any

from processors.bodies import PostgresBodies
from processors.clock import Clock
from processors.control import ControlView
from processors.failpoints import Unarmed
from processors.postgres import Database
from processors.spending.port import Spends
from processors.spending.postgres import PostgresSpends
from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams.capacity.following import Following
from streams.capacity.spare import Leftover
from streams.capacity.store import PostgresUses
from streams.claims import Claims
from streams.dead_letters import safe_message
from streams.metrics import Metrics
from streams.overview.backlog import BacklogReader
from streams.ports import Ports
from streams.producer import Producer
from streams.reading import Entry, Stretch, TopicReader
from streams.replay.backfill import PostgresBackfill
from streams.replay.calls import Calls, Limits, calls_of
from streams.replay.changes import IndexChoice, changes_for
from streams.replay.control import RecordedControl, read_control
from streams.replay.embeddings import Bounds, bounds_of
from streams.replay.events import Events
from streams.replay.gone import check_ends, check_sources
from streams.replay.lately import behind, remember
from streams.replay.limits import Pace, Purse, Yielding
from streams.replay.past_index import PastIndex, past_index
from streams.replay.ports import as_of, replay_settings
from streams.replay.run import Place, Run, State
from streams.replay.runs import Runs
from streams.replay.selection import Selection
from streams.replay.sending import BulkSender, Sender
from streams.replay.spending import HeldSpends, TellingSender, bought_before
from streams.replay.step import Step, StepPorts
from streams.settings import Settings
from streams.stages import STAGES, Effect, Stage

# Entries of a batch, and bytes: memory is the same for large events and small.
BATCH, BATCH_BYTES = 2_000, 16_000_000
# Of the first, so that there is soon something to see.
FIRST = 250
# What a stage shares with live traffic, by the live stage whose requests wait for it: calls, and embeddings.
SHARES: Mapping[str, str] = {"complete": "complete", "enrich": "enrich", "evaluate": "enrich"}
# Batches that are read ahead.
AHEAD = 2
# Events at a time by stage; each of what is not named here waits for nothing.
CONCURRENCY: Mapping[str, int] = {"enrich": 16, "complete": 16, "evaluate": 16, "account": 500}
# Of a stage that pays, batches are so many times what it has in hand: each waits for its slowest call.
CALLS_A_BATCH = 8

# Hears how far the step is: its number, and all of its places.
Observe = Callable[[int, Sequence[Place]], None]


def unobserved(step: int, places: Sequence[Place]) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run was given out of hand."""

    state: State
    reason: str = ""


class Work:
    """Runs the places of a step in this process."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        runs: Runs,
        codec: Codec,
        clock: Clock,
        *,
        observe: Observe | None = None,
    ) -> None:
        self._settings, self._database, self._runs, self._codec = settings, database, runs, codec
        self._clock, self._observe = clock, observe or unobserved
        self._step: Step | None = None
        # Where the stage buys embeddings: what tells their costs.
        self._telling: TellingSender | None = None
        self._control = RecordedControl()
        self._stopping = False
        self._unknown = ""

    def stop(self) -> None:
        """Begin nothing any more; what is begun is finished and noted."""
        self._stopping = True
        if self._step is not None:
            self._step.stop()

    async def go(
        self, run: Run, epoch: int, number: int, places: Sequence[Place], known: frozenset[str]
    ) -> Ended | None:
        """Put the events of these places through the step's stage; ``None`` once all of them are done.

        ``known`` are ids of outputs that are in the lane already. Blocks for as long as it takes. Raises as
        ``Step.batch``, and ``FencedError`` where the run was taken away.
        """
        async with AsyncExitStack() as stack:
            reader = stack.enter_context(TopicReader(self._settings))
            return await self._go(run, epoch, number, places, known, reader, stack)

    async def _go(
        self,
        run: Run,
        epoch: int,
        number: int,
        places: Sequence[Place],
        known: frozenset[str],
        reader: TopicReader,
        stack: AsyncExitStack,
    ) -> Ended | None:
        await asyncio.to_thread(check_sources, reader, places)
        stage = STAGES[run.stages[number]]
        selection = (
            Selection(run.config, self._database, source_lane=run.source_lane, run=run.run) if number == 0 else None
        )
        concurrency = CONCURRENCY.get(stage.name, 1)
        if run.config.workers and stage.effect is Effect.PAYS:
            concurrency = run.config.workers
        step, events = await self._built(run, stage, number, selection, known, concurrency, reader, stack)
        self._step = step
        if self._stopping:
            step.stop()
        now = {(place.topic, place.partition): place for place in places}
        most = concurrency * CALLS_A_BATCH if stage.effect is Effect.PAYS else BATCH
        wanted = None if selection is None else selection.key
        if epoch > 1:
            before = await asyncio.to_thread(behind, reader, places)
            async for batch in batches(self._settings, before, BATCH, wanted):
                await remember(batch, step.seen, events, run.config, selection)
        async for batch in batches(self._settings, places, most, wanted):
            try:
                after = await step.batch(batch, now)
            except ConfigurationError:
                # What its events have bought by now is told, whenever somebody mends that.
                if self._telling is not None:
                    await self._telling.settle_all()
                raise
            if after:
                await self._runs.save(run.run, epoch, after)
            now.update({(place.topic, place.partition): place for place in after})
            self._observe(number, tuple(now.values()))
            if step.stopping:
                break
        if self._telling is not None:
            await self._telling.settle_all()
        if step.exhausted:
            return Ended("stopped", "--max-cost is reached; resume with a higher one goes on")
        if step.stopping:
            return Ended("stopped", self._unknown or "interrupted; headrace replay resume goes on")
        # Events that a deleted topic took along were never handed out.
        await asyncio.to_thread(check_ends, reader, now.values())
        finished = [replace(place, next=max(place.next, place.end)) for place in now.values()]
        await self._runs.save(run.run, epoch, finished)
        self._observe(number, finished)
        return None

    async def _built(
        self,
        run: Run,
        stage: Stage,
        number: int,
        selection: Selection | None,
        known: frozenset[str],
        concurrency: int,
        reader: TopicReader,
        stack: AsyncExitStack,
    ) -> tuple[Step, Events]:
        changes = changes_for(stage.name, run.config.sets, first=number == 0, fills=run.config.fills)
        settings = replay_settings(self._settings, changes)
        control = await asyncio.to_thread(read_control, reader, settings, self._codec, run.source_lane)
        self._control = control
        claims = Claims(PostgresBodies(self._database), self._codec, most_bytes=settings.bodies.max_bytes)
        pays = stage.effect is Effect.PAYS
        calls = calls_of(run, settings, changes, self._database, self._codec, self._clock) if pays else None
        left = None if calls is None else Leftover(calls.deployments, lane=run.source_lane)
        sender: Sender = BulkSender(settings)
        bounds = bounds_of(stage.name, settings, self._clock)
        if bounds is not None:
            # What whoever led the run before me had sent without an end counts at its bound.
            sender = await self._told(run, settings.prefix, known, sender)
        purse = self._purse(run, (await self._runs.progress(run.run)).cost_usd)
        spends = None if bounds is None else await self._spends(run, stage, purse, first=number == 0)
        ports = self._worker_ports(run, settings, control, stack, spends)
        past = await self._past_index(run, changes.index, reader, stack)
        processor = (
            (past.of_then(ports.enrich(past)) if past is not None else stage.build(ports))
            if calls is None
            else calls.processor(control, stack, scorer=ports.reply_scorer(calls.routes), spare=left)
        )
        limits = await self._limits(run, stage, calls, purse, stack, left, bounds)
        publishes = run.target == "live" and not run.copies_books
        feedback = None
        if publishes:
            said = stack.enter_context(BacklogReader(self._settings, run.source_lane))
            feedback = partial(said.reached, "evaluate", "feedback")
        events = Events(run, stage, changes, self._codec, claims, first=number == 0)
        step = Step(
            StepPorts(
                run=run,
                stage=stage,
                prefix=settings.prefix,
                tenants=frozenset(settings.tenant_topics),
                events=events,
                processor=as_of(processor),
                codec=self._codec,
                sender=sender,
                now=self._clock.now,
                selection=selection,
                claims=claims,
                backfill=PostgresBackfill(self._database, self._codec, run) if publishes else None,
                feedback=feedback,
                known=known,
                concurrency=concurrency,
                prepare=None if calls is None else calls.prepare,
                # What needs no limit is not held up for each event.
                begin=limits.begin if stage.name in SHARES or run.config.rate else None,
                done=limits.done,
            )
        )
        return step, events

    async def _past_index(
        self, run: Run, choice: IndexChoice, reader: TopicReader, stack: AsyncExitStack
    ) -> PastIndex | None:
        """What searches another index than today's; ``None`` where it is today's."""
        if not choice.past:
            return None
        places = (await self._runs.progress(run.run)).of_step(0)
        return await past_index(choice, reader, self._settings, self._codec, self._database, run, places, stack)

    async def _told(self, run: Run, prefix: str, known: frozenset[str], sender: Sender) -> TellingSender:
        """The sender, which tells what embeddings of the run cost; all that is to be told by now was."""
        self._telling = TellingSender(
            sender,
            PostgresSpends(self._database),
            self._codec,
            lane=run.lane,
            prefix=prefix,
            now=self._clock.now,
            known=known,
        )
        await self._telling.settle_all()
        return self._telling

    async def _spends(self, run: Run, stage: Stage, purse: Purse, *, first: bool) -> HeldSpends:
        """The book of what the stage's embeddings cost, within the run's purse."""
        # Events of a run's own have nothing that was bought before, and an evaluation is kept as a whole.
        earlier = await bought_before(self._database, run, stage.name) if first and stage.name != "evaluate" else []
        # What a reply costs is paid by then: its scores must not fail for the limit.
        may_fail = stage.effect is not Effect.PAYS
        book = PostgresSpends(self._database)
        return HeldSpends(book, purse, stage=stage.name, earlier=earlier, may_fail=may_fail)

    def _worker_ports(
        self, run: Run, settings: Settings, control: ControlView, stack: AsyncExitStack, spends: Spends | None
    ) -> Ports:
        """The adapters of a worker in the run's lane; in the source lane for what puts the books right."""
        lane = run.source_lane if run.copies_books and run.target == "live" else run.lane
        producer = Producer(settings.kafka)
        clock, codec = self._clock, self._codec
        ports = (settings, lane, self._database, codec, clock, control, Metrics(), Unarmed(), stack, producer)
        return Ports(*ports, spends=spends)

    async def _limits(
        self,
        run: Run,
        stage: Stage,
        calls: Calls | None,
        purse: Purse,
        stack: AsyncExitStack,
        left: Leftover | None,
        bounds: Bounds | None,
    ) -> Limits:
        yielding, shared = None, SHARES.get(stage.name)
        if shared is not None:
            backlog = stack.enter_context(BacklogReader(self._settings, run.source_lane))

            def waiting() -> int:
                found = [one for one in backlog.read() if one.stage == shared]
                if left is not None:
                    left.members = max((one.members for one in found), default=0)
                # Budgets and limits of calls are taken from live workers that are down, too; embeddings have none.
                return sum(one.events for one in found if one.members or shared == "complete")

            # What the live workers have in hand is not committed yet, and waits for nothing.
            yielding = Yielding(waiting, least=self._settings.call_concurrency)
            uses, says = PostgresUses(self._database), partial(_queued, yielding, shared)
            following = Following(uses, holder=self._holder(run, stage), lane=run.lane, left=left, waits=says)
            for looking in (yielding.run(), following.run()):
                watching = asyncio.ensure_future(looking)
                watching.add_done_callback(self._unwatched)
                stack.push_async_callback(_cancelled, watching)
        return Limits(Pace(run.config.rate), purse, yielding, calls, left, bounds)

    def _holder(self, run: Run, stage: Stage) -> str:  # noqa: ARG002
        """Who tells what it takes of providers: a run has one step at a time."""
        return run.run

    def _purse(self, run: Run, spent: Decimal) -> Purse:
        return Purse(run.config.max_cost_usd, spent)

    def _unwatched(self, watching: asyncio.Task[None]) -> None:
        """Begin nothing where nobody can say whether live requests wait."""
        error = None if watching.cancelled() else watching.exception()
        if error is not None and self._step is not None:
            self._unknown = f"it can't be seen what live traffic needs, which goes first: {safe_message(error)}"
            self._step.stop()


def _queued(yielding: Yielding, stage: str) -> str:
    """What a run waits for, in words, where it is live events before a stage."""
    return f"live events wait before the stage {stage}" if yielding.queued else ""


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def batches(
    settings: Settings, places: Sequence[Place], most: int, wanted: Callable[[bytes | None], bool] | None
) -> AsyncIterator[list[Entry]]:
    """The entries that are left of these places, read ahead by a thread of their own."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any](AHEAD)
    ended = threading.Event()

    def put(item: object) -> None:
        asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()

    def read() -> None:
        stretches = {(place.topic, place.partition): Stretch(place.next, place.end) for place in places if place.left}
        try:
            with TopicReader(settings, strict=True) as reader:
                batch: list[Entry] = []
                size, enough = 0, min(most, FIRST)
                for entry in reader.read(stretches, wanted):
                    batch.append(entry)
                    size += entry.size
                    if len(batch) >= enough or size >= BATCH_BYTES:
                        put(batch)
                        batch, size, enough = [], 0, most
                    if ended.is_set():
                        return
                put(batch)
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read, daemon=True, name="replay reader")
    thread.start()
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if item:
                yield item
    finally:
        ended.set()
        while thread.is_alive():
            with suppress(asyncio.QueueEmpty):
                queue.get_nowait()
            await asyncio.sleep(0.01)
