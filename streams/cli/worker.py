"""``headrace worker``: run stages in this process."""

from __future__ import annotations

import fcntl
import os
import socket
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
    name, _lock = (slot, None) if slot else free_slot(settings.folder, lane, stages)
    plan = WorkerPlan(stages=tuple(stages), slot=name, lane=lane, concurrency=concurrency, cpu=cpu)
    raise typer.Exit(run_worker(plan, settings))


def free_slot(folder: Path, lane: str, stages: list[str]) -> tuple[str, int]:
    """The first slot on this host that no living worker of these stages holds, and the descriptor that holds it.

    A group instance id has to be unique, or the broker fences the earlier worker, and stable, so that a restarted
    worker gets its partitions back at once. A lock on a file is both: the system lets it go with the process.
    """
    slots = folder / "slots"
    slots.mkdir(parents=True, exist_ok=True)
    for number in range(MOST_SLOTS):
        path = slots / f"{lane}.{'+'.join(sorted(stages))}.{number}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        return f"{socket.gethostname()}-{number}", descriptor
    raise ConfigurationError(f"all {MOST_SLOTS} worker slots of this host are taken; name one with --slot")
