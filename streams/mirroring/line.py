"""One stage of a mirror in this process: built once, and run over what has come since, again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal

from processors.clock import Clock
from processors.postgres import Database
from schemas.codec import Codec
from streams.mirroring.allowance import Allowance, patiently
from streams.mirroring.days import Days
from streams.mirroring.follow import chunks, control_end
from streams.reading import Place as TopicPlace
from streams.reading import Stretch, TopicReader
from streams.replay.control import follow_control
from streams.replay.lately import behind, remember
from streams.replay.run import Place, Run, Written
from streams.replay.runs import Runs
from streams.replay.selection import Selection
from streams.replay.work import BATCH, CALLS_A_BATCH, CONCURRENCY, Work, batches
from streams.settings import Settings
from streams.stages import STAGES, Effect, Stage


class Line(Work):
    """Runs one stage of a mirror. Everything that it needs is given; it connects to the broker by itself."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        runs: Runs,
        codec: Codec,
        clock: Clock,
        *,
        run: Run,
        epoch: int,
        number: int,
        days: Days,
    ) -> None:
        """``number``: of the stage among those of the run. ``days``: of the process that has it in hand."""
        super().__init__(settings, database, runs, codec, clock)
        self._run, self._epoch, self._number, self._days = run, epoch, number, days
        self._stage = STAGES[run.stages[number]]
        paying = self._stage.effect is Effect.PAYS
        own = run.config.workers if paying else None
        self._concurrency = own or CONCURRENCY.get(self._stage.name, 1)
        self._most = self._concurrency * CALLS_A_BATCH if paying else BATCH
        self._reader: TopicReader | None = None
        self._control_end = -1
        self._allowance = Allowance(days, clock)
        self.places: Mapping[TopicPlace, Place] = {}
        # Ids of outputs that are in the lane and not noted yet are looked up until a round is done.
        self.resumed = False

    def _holder(self, run: Run, stage: Stage) -> str:
        # The stages of a mirror are there side by side: what one takes must not be told in place of another's.
        first = "complete" if "complete" in run.stages else run.stages[0]
        return run.run if stage.name == first else f"{run.run}.{stage.name}"

    def _purse(self, run: Run, spent: Decimal) -> Allowance:  # noqa: ARG002
        return self._allowance

    async def begin(self, places: Sequence[Place], known: frozenset[str], stack: AsyncExitStack) -> None:
        """Build the stage; ``known`` are ids of outputs that are in the lane already. Blocks as a worker's start."""
        run = self._run
        self._reader = reader = stack.enter_context(TopicReader(self._settings, strict=True))
        self.places = {(place.topic, place.partition): place for place in places}
        selection = None
        if self._number == 0:
            selection = Selection(run.config, self._database, source_lane=run.source_lane, run=run.run)
        step, events = await self._built(
            run, self._stage, self._number, selection, known, self._concurrency, reader, stack
        )
        self._step, self.resumed = step, bool(known)
        if self._epoch > 1:
            before = await asyncio.to_thread(behind, reader, places)
            async for batch in batches(self._settings, before, BATCH, None):
                await remember(batch, step.seen, events, run.config, selection)
        if self._stopping:
            step.stop()

    @property
    def ended(self) -> str | None:
        """Why nothing is begun any more; ``None`` while it goes on."""
        if self._step is not None and self._step.stopping:
            return self._unknown or "interrupted"
        return None

    async def go_on(self, places: Sequence[Place]) -> bool:
        """Put what is left of these places through the stage and note it; whether there was anything.

        Blocks for as long as it takes. Raises as ``Step.batch``, and ``FencedError`` where the mirror was taken away.
        """
        assert self._step is not None and self._reader is not None
        await self._save(places)
        left = {key: Stretch(place.next, place.end) for key, place in self.places.items() if place.left}
        if not left:
            return False
        await self._follow_control(self._reader)
        async for batch in chunks(self._reader, left, self._most):
            after = await self._step.batch(batch, self.places)
            await self._allowance.settled()
            await self._save(after)
            if after:
                await patiently(self._days.forget)
            if self._step.stopping:
                return True
        # The end of a partition may be a gap.
        await self._save([replace(self.places[key], next=stretch.end) for key, stretch in left.items()])
        if self.resumed:
            # What was known to be written belongs to what is noted by now.
            self._step.noted()
            self.resumed = False
        return True

    async def close(self) -> None:
        """Tell what nobody will bring to an end any more of what embeddings cost; nothing of the stage is open."""
        if self._telling is not None:
            await patiently(self._telling.settle_all)

    async def checkpoint(self, written: Written) -> None:
        """Note how far the lane is written, at a moment in which all of it is noted: a resume looks from there on."""
        if not self.resumed:
            await self._save([replace(place, written=written) for place in self.places.values()])

    async def _save(self, places: Sequence[Place]) -> None:
        """Note those that are new or moved."""
        run, epoch = self._run.run, self._epoch
        by_key = {(one.topic, one.partition): one for one in places}
        moved = {key: one for key, one in by_key.items() if self.places.get(key) != one}
        fresh = [one for key, one in moved.items() if key not in self.places]
        if fresh:
            await patiently(lambda: self._runs.begin_step(run, epoch, fresh))
        if moved:
            await patiently(lambda: self._runs.save(run, epoch, list(moved.values())))
            self.places = {**self.places, **moved}

    async def _follow_control(self, reader: TopicReader) -> None:
        """Know of what was put live until now: the events at hand were decided by nothing later."""
        if self._number > 0:
            return
        lane = self._run.source_lane
        end = await patiently(lambda: asyncio.to_thread(control_end, reader, self._settings, lane))
        if end > self._control_end:
            arguments = (self._control, reader, self._settings, self._codec, lane)
            await patiently(lambda: asyncio.to_thread(follow_control, *arguments))
            self._control_end = end
