"""``headrace worker``: run stages in this process."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import ConfigurationError
from streams.settings import load_settings
from streams.stages import STAGES
from streams.worker import WorkerPlan, run_worker

MOST_SLOTS = 1024


def worker(
    stages: Annotated[list[str], typer.Argument(help=f"Stages to run: {', '.join(STAGES)}.")],
    lane: Annotated[str, typer.Option(help="Lane to work on.")] = "live",
    concurrency: Annotated[int | None, typer.Option(min=1, max=1024, help="Events of a stage at a time.")] = None,
    slot: Annotated[
        str | None,
        typer.Option(help="Stable name of this worker in its groups; the next free one on this host if left out."),
    ] = None,
    cpu: Annotated[int | None, typer.Option(min=0, help="Pin the process to this core.")] = None,
    folder: Annotated[Path | None, typer.Option(help="The embedded stack's folder.")] = None,
) -> None:
    """Run stages until SIGTERM, which finishes or releases what is in process and exits 0."""
    settings = load_settings(folder=folder)
    name, _lock = (slot, None) if slot else free_slot(lane, stages)
    plan = WorkerPlan(stages=tuple(stages), slot=name, lane=lane, concurrency=concurrency, cpu=cpu)
    code = run_worker(plan, settings)
    # A thread of a client may still wait for a broker that is away; all that matters is done.
    sys.stderr.flush()
    os._exit(code)


def free_slot(lane: str, stages: list[str], *, folder: Path | None = None) -> tuple[str, int]:
    """The first slot on this host that no living worker of these stages holds, and the descriptor that holds it.

    A group instance id has to be unique, or the broker fences the earlier worker, and stable, so that a restarted
    worker gets its partitions back at once. A lock on a file is both: the system lets it go with the process.
    """
    slots = folder or Path(tempfile.gettempdir()) / f"headrace-slots-{os.getuid()}"
    slots.mkdir(mode=0o700, parents=True, exist_ok=True)
    group = "+".join(sorted(stages))
    for number in range(MOST_SLOTS):
        path = slots / f"{lane}.{group}.{number}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        # Workers of other stage sets may share a group with this one, so the set is part of the name.
        return f"{socket.gethostname()}-{group}-{number}", descriptor
    raise ConfigurationError(f"all {MOST_SLOTS} worker slots of this host are taken; name one with --slot")
