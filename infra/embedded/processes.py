"""Finding and ending the processes of a stack whose supervisor died, without ever touching a stranger's.

Every process of a stack carries the stack's folder in its environment. A pid from a file may have been given to
another process meanwhile; the mark can't.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

# Not under HEADRACE_, where it would be taken for a setting.
MARK = "_HEADRACE_STACK_FOLDER"
TERM_GRACE_S = 15.0


def mark(folder: Path) -> dict[str, str]:
    """The variable that makes a process known as one of the stack in ``folder``."""
    return {MARK: str(folder)}


def marked(folder: Path) -> list[psutil.Process]:
    """All living processes of the stack, except the caller and its parents."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in own and process.environ().get(MARK) == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def end(processes: Iterable[psutil.Process], *, grace_s: float = TERM_GRACE_S) -> int:
    """Ask them to end, kill those that are left after the grace, and wait until all are gone. Returns how many."""
    processes = list(processes)
    pids = {process.pid for process in processes}
    for process in processes:
        if _parent(process) not in pids:
            _signal(process, signal.SIGINT if _name(process) == "postgres" else signal.SIGTERM)
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=grace_s)
    return len(processes)


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return
