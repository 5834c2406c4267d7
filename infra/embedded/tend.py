"""The life of one child: start, wait until ready, watch, start again after a crash, stop."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from infra.embedded.child import ChildSpec
from infra.embedded.health import is_ready
from infra.embedded.launch import launch
from infra.embedded.state import Status

STARTING_INTERVAL_S = 0.05
READY_INTERVAL_S = 2.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
# A child that ran this long starts again at once after a crash: it is no crash loop.
STABLE_AFTER_S = 30.0
# A first start is repeated for workers alone: a component that ends at once has a wrong port, file or folder.
FIRST_STARTS = {"component": 1, "worker": 3}


class Tended:
    """A child and the task that keeps it running. ``status`` and the other fields may be read at any time."""

    def __init__(self, spec: ChildSpec, *, log: Path, env: dict[str, str]) -> None:
        self.spec = spec
        self.status: Status = "starting"
        self.pid: int | None = None
        self.restarts = 0
        self.started_at: float | None = None
        self.exit_code: int | None = None
        self._log = log
        self._env = env
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._was_ready = False

    def start(self, *, after: Iterable[asyncio.Task[None]] = ()) -> None:
        """Begin to keep the child running, once the tasks in ``after`` (a predecessor's stop) are done."""
        self._task = asyncio.create_task(self._keep(tuple(after)))

    async def stop(self) -> None:
        """Send the stop signal, wait out the grace, kill the whole group. Returns when the process is gone."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self.status != "failed":
            self.status = "stopping"
        if self._process is not None:
            await self._end(self._process)
        if self.status != "failed":
            self.status = "stopped"
        self.pid = None

    async def _keep(self, after: tuple[asyncio.Task[None], ...]) -> None:
        if after:
            await asyncio.wait(after)
        pause_s = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            await self._run_once()
            if not self._was_ready and self.restarts + 1 >= FIRST_STARTS[self.spec.kind]:
                self.status = "failed"
                return
            self.status = "restarting"
            if time.monotonic() - began > STABLE_AFTER_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            self.restarts += 1

    async def _run_once(self) -> None:
        try:
            self._process = await launch(self.spec, log=self._log, env=self._env)
        except OSError as error:
            with self._log.open("a") as log:
                log.write(f"{self.spec.argv[0]} could not be run: {error}\n")
            return
        self.pid, self.started_at = self._process.pid, time.time()
        watching = asyncio.create_task(self._watch())
        try:
            self.exit_code = await self._process.wait()
        finally:
            watching.cancel()
        self.pid = None
        # What it left behind in its group would hold its port or its files.
        _kill_group(self._process.pid)

    async def _watch(self) -> None:
        deadline = time.monotonic() + self.spec.start_timeout_s
        while True:
            ready = await asyncio.to_thread(is_ready, self.spec.health)
            if ready:
                self.status, self._was_ready = "ready", True
            elif self._was_ready and self.status == "ready":
                self.status = "unready"
            elif not self._was_ready and time.monotonic() > deadline and self.spec.kind == "component":
                self.status = "failed"
                return
            await asyncio.sleep(READY_INTERVAL_S if ready else STARTING_INTERVAL_S)

    async def _end(self, process: Process) -> None:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.Signals[self.spec.stop_signal])
            try:
                async with asyncio.timeout(self.spec.stop_grace_s):
                    await process.wait()
            except TimeoutError:
                _kill_group(process.pid)
                await process.wait()
            _kill_group(process.pid)
        self.exit_code = process.returncode


def _kill_group(pid: int) -> None:
    # The child leads its own session, so its pid is its group's id; the group keeps the id from being given away.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
