"""Bringing the stack up and down: the calls that the command line and the tests use.

A stack lives in a folder. ``up`` prepares the components, writes what shall run to ``desired.json`` and starts a
detached supervisor that runs it; a later ``up`` adds to what a living supervisor runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil

from infra.embedded import postgres
from infra.embedded.cache import locked, try_locked
from infra.embedded.child import ChildSpec, WorkerSpec, python_argv
from infra.embedded.components import COMPONENTS, Prepared, prepare
from infra.embedded.errors import ComponentError, PortTakenError, StackError
from infra.embedded.ports import is_free
from infra.embedded.processes import end, mark, marked
from infra.embedded.progress import OnProgress, Progress, silent
from infra.embedded.state import ChildState, Layout, StackState, read_json, tail, write_json

POLL_S = 0.05
# How often components are started whose ports somebody else took between their choice and their start.
PORT_TRIES = 3
# As Postgres, Java and Python say it, in what a process wrote last.
_IN_USE = ("address already in use", "in use by another process")
_IN_USE_LINES = 200
SUPERVISOR_START_S = 20.0
READY_TIMEOUT_S = 120.0
STOP_MARGIN_S = 15.0


def up(
    folder: Path,
    workers: Sequence[WorkerSpec] = (),
    *,
    components: Collection[str] = COMPONENTS,
    kafka_properties: Mapping[str, str] | None = None,
    owner_pid: int | None = None,
    on_progress: OnProgress = silent,
) -> StackState:
    """Run the components and workers in ``folder``, and return when all are ready.

    Joins a stack that runs already and adds what it lacks; a worker whose name is there stays as it was started.
    Clears first what a crash left, keeping the data. Blocks for about five seconds, and on downloads the first time.
    Raises ComponentError for a process that does not come up and StackError for what can't be prepared; then, and on
    KeyboardInterrupt, what this call started is stopped. A stack that this call starts for an ``owner_pid`` stops by
    itself when that process ends, however it ends. A component whose port was taken meanwhile is given another one; a
    worker, or a broker whose ``listeners`` are given, raises PortTakenError then, and may be tried with other ports.
    """
    fixed = "listeners" in (kafka_properties or {})
    for left in reversed(range(PORT_TRIES)):
        try:
            return _up(folder, workers, components, kafka_properties, owner_pid, on_progress)
        except PortTakenError as error:
            if not left or error.component not in COMPONENTS or fixed:
                raise
    raise AssertionError


def _up(
    folder: Path,
    workers: Sequence[WorkerSpec],
    components: Collection[str],
    kafka_properties: Mapping[str, str] | None,
    owner_pid: int | None,
    on_progress: OnProgress,
) -> StackState:
    layout = _layout(folder)
    with locked(layout.change_lock):
        joined = is_running(layout.folder)
        if not joined:
            clear(layout.folder)
        before = _desired(layout) if joined else {**_desired(layout), "children": []}
        try:
            _drop_failed(layout, before)
            wanted = _wanted(layout, before, components, kafka_properties, on_progress)
            return _change(
                layout, wanted, [ChildSpec.from_worker(worker) for worker in workers], owner_pid, on_progress
            )
        except BaseException:
            if joined:
                write_json(layout.desired, before)
            else:
                _stop(layout, on_progress)
            raise


def join(folder: Path) -> StackState:
    """The state of the stack that runs in ``folder``. Raises StackError when none does."""
    state = status(folder)
    if not state.running:
        raise StackError(f"no stack runs in {folder}; start one with headrace up --folder {folder}")
    return state


def status(folder: Path) -> StackState:
    """What runs in ``folder`` now. Reads files alone and never fails for a folder that holds no stack."""
    layout = Layout(folder.absolute())
    data = read_json(layout.state)
    if data is None:
        return StackState(folder=str(layout.folder))
    state = StackState.from_json(data)
    if is_running(layout.folder):
        return state
    stopped = tuple(replace(child, status="stopped", pid=None) for child in state.components)
    return replace(state, running=False, supervisor_pid=None, components=stopped)


def remove(folder: Path, names: Collection[str]) -> StackState:
    """Stop these children and take them out of the stack. Blocks until their processes are gone."""
    layout = _layout(folder)
    with locked(layout.change_lock):
        join(layout.folder)
        desired = _desired(layout)
        desired["children"] = [child for child in desired["children"] if child["name"] not in names]
        write_json(layout.desired, desired)
        _await(lambda: not any(status(layout.folder).child(name) for name in names), timeout_s=READY_TIMEOUT_S)
    return status(layout.folder)


def down(folder: Path, *, on_progress: OnProgress = silent) -> bool:
    """Stop the stack in ``folder`` and whatever a crashed one left. Says whether anything ran.

    Blocks until every process is gone: workers get their grace first, then the components.
    """
    layout = Layout(folder.absolute())
    if not layout.folder.exists():
        return False
    return _stop(layout, on_progress)


def is_running(folder: Path) -> bool:
    """Whether a supervisor lives: it holds its lock until its death, however it dies."""
    layout = Layout(folder.absolute())
    if not layout.supervisor_lock.exists():
        return False
    with try_locked(layout.supervisor_lock) as free:
        return not free


def clear(folder: Path) -> int:
    """End the processes that a crashed stack left in ``folder`` and return how many there were. Keeps the data."""
    found = end(marked(folder))
    return found + int(postgres.stop_leftover(folder))


def _layout(folder: Path) -> Layout:
    layout = Layout(folder.absolute())
    layout.logs.mkdir(parents=True, exist_ok=True)
    return layout


def _desired(layout: Layout) -> dict[str, Any]:
    return {"children": [], "endpoints": {}, "versions": {}, "ports": {}, **(read_json(layout.desired) or {})}


def _wanted(
    layout: Layout,
    before: Mapping[str, Any],
    components: Collection[str],
    kafka_properties: Mapping[str, str] | None,
    on_progress: OnProgress,
) -> dict[str, Any]:
    running = {child["name"] for child in before["children"]}
    missing = [name for name in COMPONENTS if name in components and name not in running]
    fresh = prepare(layout.folder, missing, before["ports"], kafka_properties or {}, on_progress)
    kept = Prepared(before["endpoints"], before["versions"], before["ports"]) if running else Prepared({}, {}, {})
    return {
        "children": [*before["children"], *(child.to_json() for child in fresh.children)],
        "endpoints": {**kept.endpoints, **fresh.endpoints},
        "versions": {**kept.versions, **fresh.versions},
        "ports": {**before["ports"], **fresh.ports},
    }


def _change(
    layout: Layout,
    wanted: dict[str, Any],
    workers: Sequence[ChildSpec],
    owner_pid: int | None,
    on_progress: OnProgress,
) -> StackState:
    every = [*(child["name"] for child in wanted["children"]), *(worker.name for worker in workers)]
    sizes = {name: _size(layout.log(name)) for name in every}
    told = _Reports(layout, on_progress)
    write_json(layout.desired, wanted)
    if not is_running(layout.folder):
        _spawn(layout, owner_pid)
    components = [child["name"] for child in wanted["children"] if child["kind"] == "component"]
    _await_ready(layout, components, told, sizes)
    _complete(wanted)
    names = {child["name"] for child in wanted["children"]}
    wanted["children"] += [worker.to_json() for worker in workers if worker.name not in names]
    write_json(layout.desired, wanted)
    _await(lambda: _follows(layout, wanted), timeout_s=SUPERVISOR_START_S)
    _await_ready(layout, [worker.name for worker in workers], told, sizes)
    return status(layout.folder)


def _complete(wanted: dict[str, Any]) -> None:
    # Only a running server can be asked for these.
    port = wanted["ports"].get(postgres.NAME)
    if port is not None and "postgres_dsn" in wanted["endpoints"]:
        postgres.ensure_database(port)
        wanted["versions"]["pgvector"] = postgres.pgvector_version(port)


def _follows(layout: Layout, wanted: Mapping[str, Any]) -> bool:
    state = status(layout.folder)
    names = {child["name"] for child in wanted["children"]}
    return state.versions == wanted["versions"] and names <= {child.name for child in state.components}


def _drop_failed(layout: Layout, before: dict[str, Any]) -> None:
    failed = {child.name for child in status(layout.folder).components if child.status == "failed"}
    if not before["children"] or not failed:
        return
    before["children"] = [child for child in before["children"] if child["name"] not in failed]
    write_json(layout.desired, before)
    _await(lambda: not any(status(layout.folder).child(name) for name in failed), timeout_s=READY_TIMEOUT_S)


def _spawn(layout: Layout, owner_pid: int | None) -> None:
    layout.state.unlink(missing_ok=True)
    owner = [str(owner_pid)] if owner_pid is not None else []
    with layout.log("supervisor").open("ab") as log:
        done = subprocess.run(
            [*python_argv("infra.embedded.supervisor", str(layout.folder)), *owner],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **mark(layout.folder), "PYTHONPATH": _import_path()},
            start_new_session=True,
            check=False,
        )
    if done.returncode != 0:
        raise _component_error(layout, "supervisor", f"it ended with exit code {done.returncode}")
    _await(lambda: layout.state.exists() or not is_running(layout.folder), timeout_s=SUPERVISOR_START_S)


def _import_path() -> str:
    # Children run in their own folders and must find the same code as the caller.
    ours = str(Path(__file__).parents[2])
    return os.pathsep.join(path for path in (ours, os.environ.get("PYTHONPATH")) if path)


class _Reports:
    """Says what is starting and ready, of what was not ready before."""

    def __init__(self, layout: Layout, on_progress: OnProgress) -> None:
        self._running = {child.name for child in status(layout.folder).components if child.status == "ready"}
        self._on_progress = on_progress

    def say(self, name: str, state: Literal["starting", "ready"]) -> None:
        if name not in self._running:
            self._on_progress(Progress(name, state))


def _await_ready(layout: Layout, names: Sequence[str], told: _Reports, log_sizes: Mapping[str, int]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    waiting = list(names)
    for name in waiting:
        told.say(name, "starting")
    while waiting:
        state = status(layout.folder)
        if not state.running:
            raise _component_error(layout, "supervisor", "it ended or was stopped meanwhile")
        for name in list(waiting):
            child = state.child(name)
            if child is not None and child.status == "ready":
                waiting.remove(name)
                told.say(name, "ready")
            elif child is not None and child.status == "failed":
                raise _failed(layout, child, log_sizes[name])
        if waiting and time.monotonic() > deadline:
            raise _component_error(layout, waiting[0], f"not ready within {READY_TIMEOUT_S:.0f} s")
        time.sleep(POLL_S)


def _reason(child: ChildState) -> str:
    if child.pid is None and child.exit_code is None:
        return "it could not be run"
    return "it is not ready in time" if child.pid else f"it ended with exit code {child.exit_code}"


def _failed(layout: Layout, child: ChildState, size_before: int) -> ComponentError:
    error = _component_error(layout, child.name, _reason(child))
    log = layout.log(child.name)
    written = _size(log) - size_before
    # Nothing of an earlier life; a log that is shorter now was begun anew.
    said = tail(log, _IN_USE_LINES, limit_bytes=written if written >= 0 else _size(log)).lower()
    taken = any(words in said for words in _IN_USE) or (child.port is not None and not is_free(child.port))
    if child.pid is not None or not taken:
        return error
    reason = f"{error.reason}: its port is taken"
    return PortTakenError(child.name, reason, log_path=error.log_path, log_tail=error.log_tail)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _component_error(layout: Layout, name: str, reason: str) -> ComponentError:
    log = layout.log(name)
    return ComponentError(name, reason, log_path=str(log), log_tail=tail(log))


def _stop(layout: Layout, on_progress: OnProgress) -> bool:
    state = status(layout.folder)
    was_running = state.running and state.supervisor_pid is not None
    if was_running and state.supervisor_pid is not None:
        on_progress(Progress("stack", "stopping"))
        patience_s = _patience_s(_desired(layout))
        with suppress(psutil.Error):
            supervisor = psutil.Process(state.supervisor_pid)
            if is_running(layout.folder):
                supervisor.send_signal(signal.SIGTERM)
            with suppress(psutil.TimeoutExpired):
                supervisor.wait(patience_s)
    found = clear(layout.folder)
    if was_running or found:
        on_progress(Progress("stack", "stopped"))
    return was_running or found > 0


def _patience_s(desired: Mapping[str, Any]) -> float:
    graces = {"worker": 0.0, "component": 0.0}
    for child in desired["children"]:
        graces[child["kind"]] = max(graces[child["kind"]], float(child["stop_grace_s"]))
    return sum(graces.values()) + STOP_MARGIN_S


def _await(condition: Callable[[], bool], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"the supervisor did not follow within {timeout_s:.0f} s; see its log")
        time.sleep(POLL_S)
