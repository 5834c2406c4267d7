"""Leading a mirror: its stages run over what has come since, round after round, until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from functools import partial

from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import DependencyDownError
from streams.lineage.replays import ReplayLineage
from streams.mirroring.allowance import patiently
from streams.mirroring.days import Days, PostgresDays
from streams.mirroring.figures import Figures, figures_of
from streams.mirroring.follow import extended, written
from streams.mirroring.line import Line
from streams.overview.backlog import BacklogReader
from streams.reading import TopicReader
from streams.replay.booking import Settle
from streams.replay.conduct import Conductor
from streams.replay.gone import check_outputs
from streams.replay.lane import already_written, make_topics
from streams.replay.run import Place, Run
from streams.replay.runs import Runs
from streams.replay.work import Ended
from streams.settings import Settings

# After a round in which nothing had come.
IDLE_S = 1.0
# Between looks at how far it is behind, and between notes of how far its lane is written.
LOOK_S, CHECK_S = 5.0, 30.0
INTERRUPTED = "interrupted; the same headrace replay mirror start goes on"

# The days of a run, for the process that has it in hand under an epoch.
DaysOf = Callable[[Run, int], Days]


class MirrorConductor(Conductor):
    """Leads mirrors, as ``Conductor`` leads runs. ``observe`` hears how the mirror stands, every few seconds."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        runs: Runs,
        codec: Codec,
        *,
        days: DaysOf | None = None,
        tell: Callable[[Figures], None] | None = None,
        lineage: ReplayLineage | None = None,
        settle: Settle | None = None,
    ) -> None:
        super().__init__(settings, database, runs, codec, lineage=lineage, settle=settle)
        self._days_of = days or self._kept_days
        self._tell = tell
        self._lines: list[Line] = []
        self._wake = asyncio.Event()

    def stop(self) -> None:
        """Begin nothing any more; what is begun is finished, noted, and the mirror can go on from there."""
        super().stop()
        for line in self._lines:
            line.stop()
        self._wake.set()

    def _kept_days(self, run: Run, epoch: int) -> Days:
        limit = run.config.max_cost_per_day_usd
        return PostgresDays(self._database, run.run, epoch=epoch, limit_usd=Decimal(0) if limit is None else limit)

    async def _steps(self, run: Run, epoch: int) -> Ended:
        days = self._days_of(run, epoch)
        async with AsyncExitStack() as stack:
            reader = stack.enter_context(TopicReader(self._settings))
            await self._open(run, epoch, days, reader, stack)
            watching = asyncio.ensure_future(self._watch(run, days))
            try:
                ended = await self._rounds(run, reader)
                for line in self._lines:
                    await line.close()
                return ended
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _open(self, run: Run, epoch: int, days: Days, reader: TopicReader, stack: AsyncExitStack) -> None:
        progress = await self._runs.progress(run.run)
        # Before topics are made: one that was deleted would be there again, and empty.
        await asyncio.to_thread(check_outputs, reader, run, progress.places)
        await asyncio.to_thread(make_topics, self._settings, run)
        services = (self._settings, self._database, self._runs, self._codec, self._clock)
        for number in range(len(run.stages)):
            places = progress.of_step(number)
            line = Line(*services, run=run, epoch=epoch, number=number, days=days)
            # It is there to be stopped while it is still built.
            self._lines.append(line)
            known: frozenset[str] = frozenset()
            if epoch > 1:
                now = await asyncio.to_thread(extended, reader, self._settings, run, number, places)
                known = await asyncio.to_thread(already_written, reader, self._settings, run, now)
            await line.begin(places, known, stack)
        if self._stopping:
            self.stop()

    async def _rounds(self, run: Run, reader: TopicReader) -> Ended:
        loop = asyncio.get_running_loop()
        checked, unchecked = loop.time(), False
        while True:
            moved = False
            for number, line in enumerate(self._lines):
                places = list(line.places.values())
                now = await self._reached(reader, run, number, places)
                moved = await line.go_on(now) or moved
                ended = line.ended
                if ended is not None or self._stopping:
                    return Ended("stopped", INTERRUPTED if self._stopping or ended is None else ended)
            unchecked = unchecked or moved
            if unchecked and loop.time() - checked > CHECK_S:
                await self._check(run, reader)
                checked, unchecked = loop.time(), False
            if not moved:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), IDLE_S)

    async def _reached(self, reader: TopicReader, run: Run, number: int, places: Sequence[Place]) -> tuple[Place, ...]:
        return await patiently(lambda: asyncio.to_thread(extended, reader, self._settings, run, number, places))

    async def _check(self, run: Run, reader: TopicReader) -> None:
        """Between rounds all that is in the lane is noted, so that a resume has little to look through."""
        places = [place for line in self._lines for place in line.places.values()]
        await patiently(lambda: asyncio.to_thread(check_outputs, reader, run, places))
        for number, line in enumerate(self._lines):
            ask = partial(asyncio.to_thread, written, reader, self._settings, run, run.stages[number])
            await line.checkpoint(await patiently(ask))

    async def _watch(self, run: Run, days: Days) -> None:
        """Tell how the mirror stands, whatever its rounds wait for."""
        if self._tell is None:
            return
        with BacklogReader(self._settings, run.source_lane) as backlog:
            while True:
                # Away for now: it is told once it is back.
                with suppress(DependencyDownError):
                    at = {place: one.next for place, one in self._lines[0].places.items()}
                    behind = await asyncio.to_thread(backlog.behind, at)
                    progress, day = await self._runs.progress(run.run), await days.today()
                    self._tell(figures_of(run, progress, day, behind=behind, now=self._clock.now()))
                await asyncio.sleep(LOOK_S)
