"""A step in many processes, and what whoever leads it still can do meanwhile."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from multiprocessing.connection import Connection
from typing import Any, cast

import pytest

from streams.replay.run import Place
from streams.replay.runs import FakeRuns
from streams.replay.shares import Shares
from streams.replay.work import Work
from tests.support.settings import bare_settings
from tests.unit.streams.test_replay_step import run_of


class Process:
    """Tells that it is done once all may end."""

    pid = None
    may_end = threading.Event()

    def __init__(self, *, target: object, args: tuple[Any, ...], daemon: bool) -> None:
        self._args = args

    def start(self) -> None:
        # The leader closes its own end, as after a real start.
        channel = Connection(os.dup(self._args[-1].fileno()))
        self._thread = threading.Thread(target=self._live, args=(channel,), daemon=True)
        self._thread.start()

    def _live(self, channel: Connection) -> None:
        self.may_end.wait(60)
        channel.send(("done", ""))
        channel.close()

    def is_alive(self) -> bool:
        return False

    def join(self) -> None:
        self._thread.join()


class Context:
    Process = Process

    def Pipe(self) -> tuple[Connection, Connection]:
        return multiprocessing.Pipe()


class Here:
    """The leader's own part: it needs a thread of the loop's pool, as reads and questions to the broker do."""

    async def go(self, *_: object) -> None:
        try:
            await asyncio.wait_for(asyncio.to_thread(lambda: None), 20)
        finally:
            Process.may_end.set()

    def stop(self) -> None: ...


async def test_many_processes_leave_threads_for_the_work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: Context())
    runs, run = FakeRuns(), run_of()
    topic = "live.completions"
    places = [Place(step=0, topic=topic, partition=number, first=0, end=9, next=0) for number in range(60)]
    await runs.create(run, places)
    shares = Shares(bare_settings(), runs, [[place] for place in places], cast("Work", Here()))
    assert await shares.go(run, 1, 0, places, frozenset()) is None
