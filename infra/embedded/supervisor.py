"""The process that owns a stack's processes: ``python -m infra.embedded.supervisor FOLDER [OWNER]``.

It runs what ``desired.json`` lists and follows changes to it, writes what it sees to ``stack.json``, starts a crashed
child again with a growing pause, and on SIGTERM or SIGINT stops all: the workers first, then the components. With the
pid of an owner it also stops when that process is gone.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from infra.embedded.child import ChildSpec
from infra.embedded.processes import mark
from infra.embedded.state import ChildState, Layout, StackState, read_json, write_json
from infra.embedded.tend import Tended

FOLLOW_INTERVAL_S = 0.1


class Supervisor:
    """Runs until it is told to stop. One per folder: ``supervisor.lock`` sees to that."""

    def __init__(self, folder: Path, *, owner: psutil.Process | None = None) -> None:
        self._layout = Layout(folder)
        self._owner = owner
        self._children: dict[str, Tended] = {}
        self._leaving: dict[asyncio.Task[None], Tended] = {}
        self._stop = asyncio.Event()
        self._env = {**os.environ, **mark(folder)}
        self._started_at = time.time()
        self._read: tuple[int, int] | None = None
        self._written: StackState | None = None
        self._extra: dict[str, Any] = {}

    async def run(self) -> None:
        """Follow ``desired.json`` until a stop signal, then stop every child."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        while not self._stop.is_set() and not self._is_orphan():
            self._follow()
            self._publish()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), FOLLOW_INTERVAL_S)
        await self._stop_all()
        self._publish(running=False)

    def _is_orphan(self) -> bool:
        return self._owner is not None and not self._owner.is_running()

    def _follow(self) -> None:
        try:
            stat = self._layout.desired.stat()
        except FileNotFoundError:
            return
        if self._read == (stat.st_mtime_ns, stat.st_ino):
            return
        data = read_json(self._layout.desired)
        if data is None:
            return
        self._read = (stat.st_mtime_ns, stat.st_ino)
        self._extra = {key: data.get(key, {}) for key in ("endpoints", "versions")}
        self._reconcile([ChildSpec.from_json(child) for child in data["children"]])

    def _reconcile(self, wanted: Iterable[ChildSpec]) -> None:
        specs = {spec.name: spec for spec in wanted}
        for name, child in list(self._children.items()):
            if specs.get(name) != child.spec:
                del self._children[name]
                self._leaving[asyncio.create_task(child.stop())] = child
        for name, spec in specs.items():
            if name not in self._children:
                self._children[name] = Tended(spec, log=self._layout.log(name), env=self._env)
                before = [task for task, child in self._leaving.items() if child.spec.name == name]
                self._children[name].start(after=before)

    async def _stop_all(self) -> None:
        for kind in ("worker", "component"):
            stopping = [child.stop() for child in self._children.values() if child.spec.kind == kind]
            publishing = asyncio.create_task(self._keep_publishing())
            await asyncio.gather(*stopping, *(self._leaving if kind == "worker" else ()))
            publishing.cancel()

    async def _keep_publishing(self) -> None:
        while True:
            self._publish()
            await asyncio.sleep(FOLLOW_INTERVAL_S)

    def _publish(self, *, running: bool = True) -> None:
        self._leaving = {task: child for task, child in self._leaving.items() if not task.done()}
        gone = [child for child in self._leaving.values() if child.spec.name not in self._children]
        state = StackState(
            folder=str(self._layout.folder),
            running=running,
            supervisor_pid=os.getpid(),
            started_at=self._started_at,
            endpoints=self._extra.get("endpoints", {}),
            versions=self._extra.get("versions", {}),
            components=tuple(self._describe(child) for child in (*self._children.values(), *gone)),
        )
        if state != self._written:
            write_json(self._layout.state, state.to_json())
            self._written = state

    def _describe(self, child: Tended) -> ChildState:
        spec = child.spec
        return ChildState(
            name=spec.name,
            kind=spec.kind,
            status=child.status,
            pid=child.pid,
            port=spec.port,
            version=spec.version,
            restarts=child.restarts,
            started_at=child.started_at,
            exit_code=child.exit_code,
            health_url=spec.health.target if spec.health.kind == "http" else None,
            log=str(self._layout.log(spec.name)),
        )


def main() -> None:
    """Take the folder's lock, leave the caller's session and supervise until told to stop.

    The process that was called ends with 0 as soon as the lock is held, 3 when another supervisor has the folder.
    """
    folder = Path(sys.argv[1])
    owner = psutil.Process(int(sys.argv[2])) if len(sys.argv) > 2 else None
    with Layout(folder).supervisor_lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(3)
        # The lock goes over to the child, which is nobody's child then: whoever called may end or go on for ever.
        if os.fork() > 0:
            os._exit(0)
        os.setsid()
        asyncio.run(Supervisor(folder, owner=owner).run())


if __name__ == "__main__":
    main()
