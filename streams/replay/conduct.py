"""Leading a run: taken in hand, its steps one after the other, and given out of hand in the state that it ended in."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from processors.clock import DatabaseClock
from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import ConfigurationError, DependencyDownError, FencedError, HeadraceError
from streams.dead_letters import safe_message
from streams.lineage.happening import NoLineage
from streams.lineage.replays import ReplayLineage
from streams.reading import TopicReader
from streams.replay.booking import Settle, settling
from streams.replay.embeddings import buying
from streams.replay.gone import check_outputs
from streams.replay.lane import already_written, ends_of, make_topics
from streams.replay.plan import source_topics
from streams.replay.run import Place, Run
from streams.replay.runs import LEASE_S, Runs
from streams.replay.shares import Shares, parted
from streams.replay.work import Ended, Observe, Work, unobserved
from streams.settings import Settings

RENEW_S = LEASE_S / 4


class Conductor:
    """Leads runs. Everything that it needs is given; it connects to the broker by itself."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        runs: Runs,
        codec: Codec,
        *,
        observe: Observe | None = None,
        lineage: ReplayLineage | None = None,
        settle: Settle | None = None,
    ) -> None:
        self._settle = settle or settling(settings, database, runs, codec)
        self._lineage = lineage or ReplayLineage(settings, runs, codec, NoLineage())
        self._settings, self._database, self._runs, self._codec = settings, database, runs, codec
        self._observe = observe or unobserved
        self._clock = DatabaseClock()
        self._work: Work | Shares | None = None
        self._stopping = False

    def stop(self) -> None:
        """Begin nothing any more; what is begun is finished, noted, and the run can be resumed."""
        self._stopping = True
        if self._work is not None:
            self._work.stop()

    async def lead(self, run: Run) -> Ended:
        """Lead a run to its end, or as far as it goes.

        Blocks for as long as that takes, and first for the lease of another process that may have died. Raises
        ``ConfigurationError`` where the run has ended, or is in the hands of a process that lives.
        """
        self._clock.set(await self._database.now())
        epoch = await self._take(run)
        await self._lineage.begun(run, epoch)
        following = asyncio.ensure_future(self._lineage.follow(run, epoch))
        ended: Ended | None = None
        try:
            ended = await self._lead(run, epoch)
        except Exception as error:
            ended = Ended("failed", safe_message(error))
            raise
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            if ended is not None:
                await self._lineage.ended(run, epoch, ended.state, ended.reason)
        return ended

    async def _lead(self, run: Run, epoch: int) -> Ended:
        keeping = asyncio.ensure_future(self._keep(run, epoch))
        try:
            ended = await self._booked(run, epoch, await self._ended(run, epoch))
        except Exception as error:
            # A fault of our own: what it was goes to the log of whoever leads, the run can be taken up again.
            with suppress(Exception):
                await self._settle(run, over=False)
            with suppress(HeadraceError):
                await self._runs.end(run.run, epoch, "failed", safe_message(error))
            raise
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            with suppress(HeadraceError):
                await self._runs.release(run.run, epoch)
        if ended.state == "cancelled":
            return ended
        with suppress(FencedError):
            await self._runs.end(run.run, epoch, ended.state, ended.reason)
            return ended
        cancelled = await self._booked(run, epoch, Ended("cancelled", "cancelled by an operator"))
        await self._runs.release(run.run, epoch)
        return cancelled

    async def _ended(self, run: Run, epoch: int) -> Ended:
        try:
            return await self._steps(run, epoch)
        except FencedError as error:
            return Ended("cancelled", str(error))
        except HeadraceError as error:
            # Away for now is no failure of the run's.
            return Ended("stopped" if isinstance(error, DependencyDownError) else "failed", str(error))

    async def _booked(self, run: Run, epoch: int, ended: Ended) -> Ended:
        """The end of a run whose own step did not book it all, once what it paid is booked, or why that is not so."""
        if ended.state == "done":
            return ended
        try:
            found = await self._runs.get(run.run)
            # What another process has in hand is that one's to tell.
            if found is not None and found.epoch == epoch:
                await self._settle(run, over=found.state == "cancelled")
        except HeadraceError as error:
            lacks = f"not all that it paid is booked ({safe_message(error)}): resume, cancel or delete does that"
            return replace(ended, reason=f"{ended.reason}; {lacks}")
        return ended

    async def _take(self, run: Run) -> int:
        owner = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
        deadline = asyncio.get_running_loop().time() + LEASE_S + RENEW_S
        while True:
            epoch = await self._runs.take(run.run, owner=owner)
            if epoch is not None:
                return epoch
            found = await self._runs.get(run.run)
            if found is None or found.state in ("done", "cancelled"):
                state = "deleted" if found is None else found.state
                raise ConfigurationError(f"the run {run.name} is {state}; begin another one")
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigurationError(f"the run {run.name} is in the hands of {found.owner}; cancel it, or wait")
            await asyncio.sleep(0.5)

    async def _keep(self, run: Run, epoch: int) -> None:
        """Renew the lease until the run is given out of hand."""
        while True:
            await asyncio.sleep(RENEW_S)
            with suppress(DependencyDownError):
                try:
                    await self._runs.renew(run.run, epoch)
                except FencedError:
                    # What is noted next says so. What is begun is finished first, so a cancelled run stays in hand.
                    self.stop()
                self._clock.set(await self._database.now())

    async def _steps(self, run: Run, epoch: int) -> Ended:
        with TopicReader(self._settings) as reader:
            for number, name in enumerate(run.stages):
                progress = await self._runs.progress(run.run)
                # Before topics are made: one that was deleted would be there again, and empty.
                await asyncio.to_thread(check_outputs, reader, run, progress.places)
                if number == 0:
                    await asyncio.to_thread(make_topics, self._settings, run)
                places = progress.of_step(number)
                if not places and number:
                    topics = source_topics(self._settings.model_copy(update={"tenants": {}}), run.lane, name)
                    places = await asyncio.to_thread(ends_of, reader, topics, number)
                    await self._runs.begin_step(run.run, epoch, places)
                if any(place.left for place in places) and not self._stopping:
                    ended = await self._one(run, epoch, number, places, reader)
                    if ended is not None:
                        return ended
                if self._stopping:
                    return Ended("stopped", "interrupted; headrace replay resume goes on")
            await asyncio.to_thread(check_outputs, reader, run, (await self._runs.progress(run.run)).places)
        return Ended("done")

    async def _one(
        self, run: Run, epoch: int, number: int, places: Sequence[Place], reader: TopicReader
    ) -> Ended | None:
        """Run a step, in several processes where it is long; ``None`` once all of it is done."""
        known: frozenset[str] = frozenset()
        if epoch > 1:
            steps = (await self._runs.progress(run.run)).places
            earlier = [place for place in steps if place.step < number]
            known = await asyncio.to_thread(already_written, reader, self._settings, run, places, earlier=earlier)
        parts = parted(run, number, places, pays=bool(buying(self._settings, run.stages[number : number + 1])))
        services = (self._settings, self._database, self._runs, self._codec, self._clock)
        work: Work | Shares
        if len(parts) == 1:
            work = Work(*services, observe=self._observe)
        else:
            # The rows have what all of them did.
            work = Shares(self._settings, self._runs, parts, Work(*services), observe=self._observe)
        self._work = work
        if self._stopping:
            work.stop()
        try:
            return await work.go(run, epoch, number, places, known)
        finally:
            self._work = None
