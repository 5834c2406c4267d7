"""Starting one child so that it does not outlive its supervisor."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

from infra.embedded.child import ChildSpec

LOG_MAX_BYTES = 20_000_000
_PR_SET_PDEATHSIG = 1


async def launch(spec: ChildSpec, *, log: Path, env: dict[str, str]) -> Process:
    """Start the child in a session of its own, with both outputs in its log. Raises OSError when it can't run.

    Its session keeps a Ctrl-C in the terminal from reaching it before the supervisor's orderly stop.
    """
    _rotate(log)
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *spec.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=spec.cwd,
            env={**env, **spec.env},
            user=spec.user,
            group=spec.user,
            extra_groups=[] if spec.user else None,
            start_new_session=True,
            preexec_fn=_before_exec(spec),
        )


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
        log.replace(log.with_suffix(".log.1"))


def _before_exec(spec: ChildSpec) -> Callable[[], None]:
    number = int(signal.Signals[spec.stop_signal])
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def run() -> None:
        # After the change of user, which would clear it. Elsewhere than on Linux the next `up` finds what was left.
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, number)
        if spec.nice:
            os.nice(spec.nice)

    return run
