"""A long step in several processes: each takes some of the partitions, notes how far it is, and writes as one alone."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from processors.clock import DatabaseClock
from processors.postgres import Database
from schemas.errors import ConfigurationError, DependencyDownError, FencedError, HeadraceError
from streams import security
from streams.replay.priority import step_aside
from streams.replay.run import Place, Run
from streams.replay.runs import PostgresRuns, Runs
from streams.replay.work import Ended, Observe, Work, unobserved
from streams.settings import Settings
from streams.stages import STAGES, Effect

# A process takes seconds of a core to begin: shorter steps are done before that.
WORTH_IT = 40_000
LOOK_S = 0.5
# Batches are thousands of records that live until they are done; looking through them is a fifth of the work.
GC_THRESHOLD = 100_000


def parted(run: Run, number: int, places: Sequence[Place], *, pays: bool = False) -> list[list[Place]]:
    """The places that are left, in as many parts of about the same length as there are to be processes.

    One where the stage ``pays`` for what it embeds: a run has one purse.
    """
    left = [place for place in places if place.left]
    alone = pays or STAGES[run.stages[number]].effect is Effect.PAYS or run.config.rate is not None
    if alone or sum(place.left for place in left) < WORTH_IT:
        return [left]
    parts: list[list[Place]] = [[] for _ in range(min(len(left), run.config.workers or os.cpu_count() or 1))]
    for place in sorted(left, key=lambda one: -one.left):
        min(parts, key=lambda part: sum(one.left for one in part)).append(place)
    return parts


class Shares:
    """Runs a step in a process for each part; the first part here by ``work``, while the other processes begin."""

    def __init__(
        self,
        settings: Settings,
        runs: Runs,
        parts: Sequence[Sequence[Place]],
        work: Work,
        *,
        observe: Observe | None = None,
    ) -> None:
        self._settings, self._runs, self._parts, self._work = settings, runs, parts, work
        self._observe = observe or unobserved
        self._processes: list[BaseProcess] = []
        self._stopping = False

    def stop(self) -> None:
        """Begin nothing any more; what is begun is finished and noted."""
        self._stopping = True
        self._work.stop()
        for process in self._processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    async def go(
        self, run: Run, epoch: int, number: int, places: Sequence[Place], known: frozenset[str]
    ) -> Ended | None:
        """As ``Work.go``; the first process that fails stops the others."""
        self._observe(number, places)
        context = multiprocessing.get_context("spawn")
        channels = []
        for part in self._parts[1:]:
            theirs, ours = context.Pipe()
            arguments = (self._settings, run, epoch, number, list(part), known, theirs)
            process: BaseProcess = context.Process(target=_share, args=arguments, daemon=True)
            process.start()
            # What is left of it here would keep the pipe open when the process dies.
            theirs.close()
            self._processes.append(process)
            channels.append(ours)
        if self._stopping:
            self.stop()
        # Threads of their own: in the loop's pool, many processes would leave none for the work here.
        listening = ThreadPoolExecutor(len(channels) or 1, thread_name_prefix="replay share")
        looking = asyncio.ensure_future(self._look(run, number))
        try:
            here = self._here(run, epoch, number, known)
            ended = await asyncio.gather(here, *(self._outcome(channel, listening) for channel in channels))
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            for process in self._processes:
                await asyncio.to_thread(process.join)
            # Each pipe ended with its process.
            listening.shutdown(wait=False)
        self._observe(number, (await self._runs.progress(run.run)).of_step(number))
        raised = [one for one in ended if isinstance(one, HeadraceError)]
        if raised:
            raise raised[0]
        return next((one for one in ended if isinstance(one, Ended)), None)

    async def _here(self, run: Run, epoch: int, number: int, known: frozenset[str]) -> Ended | HeadraceError | None:
        try:
            return await self._work.go(run, epoch, number, self._parts[0], known)
        except BaseException as error:
            self.stop()
            if isinstance(error, HeadraceError):
                return error
            raise

    async def _outcome(self, channel: Connection, listening: Executor) -> Ended | HeadraceError | None:
        try:
            found: tuple[str, str] = await asyncio.get_running_loop().run_in_executor(listening, channel.recv)
        except EOFError:
            self.stop()
            return DependencyDownError("a process of the run", "it died; resume goes on")
        kind, reason = found
        if kind == "done":
            return None
        self.stop()
        if kind == "stopped":
            return Ended("stopped", reason)
        return {"fenced": FencedError, "failed": ConfigurationError}.get(kind, HeadraceError)(reason)

    async def _look(self, run: Run, number: int) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            with suppress(DependencyDownError):
                self._observe(number, (await self._runs.progress(run.run)).of_step(number))


def _share(
    settings: Settings,
    run: Run,
    epoch: int,
    number: int,
    places: Sequence[Place],
    known: frozenset[str],
    channel: Connection,
) -> None:
    """The life of a process: its part of the step, and a word of how it ended."""
    step_aside()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    channel.send(asyncio.run(_shared(settings, run, epoch, number, places, known)))


def _die_with_parent() -> None:
    """A run whose leader was killed is taken up by another: nothing of the old one may go on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


async def _shared(
    settings: Settings, run: Run, epoch: int, number: int, places: Sequence[Place], known: frozenset[str]
) -> tuple[str, str]:
    dsn = settings.postgres.dsn.get_secret_value()
    try:
        database = await Database.open(dsn, max_size=settings.postgres.pool_size, application_name="headrace replay")
        try:
            clock = DatabaseClock()
            clock.set(await database.now())
            codec = await security.codec(settings.registry)
            work = Work(settings, database, PostgresRuns(database), codec, clock)
            loop = asyncio.get_running_loop()
            for one in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(one, work.stop)
            ended = await work.go(run, epoch, number, places, known)
        finally:
            await database.close()
    except FencedError as error:
        return "fenced", str(error)
    except DependencyDownError as error:
        return "stopped", str(error)
    except HeadraceError as error:
        return "failed", str(error)
    return ("done", "") if ended is None else (ended.state, ended.reason)
