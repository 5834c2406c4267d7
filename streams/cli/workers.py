"""The workers of the embedded stack: one process a core, pinned."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.embedded.child import WorkerSpec
from infra.embedded.ports import free_port
from streams.settings import load_settings
from streams.worker import grace_s

# The stage that waits for models has a core of its own; the quick ones share the other.
GROUPS = {"flow": ("admit", "enrich", "filter", "release", "evaluate", "account", "index"), "complete": ("complete",)}


def worker_specs(folder: Path) -> list[WorkerSpec]:
    """How to start each worker of the embedded stack."""
    settings = load_settings(folder=folder)
    return [
        worker_spec(folder, name, stages, cpu=cpu, stop_s=grace_s(settings, stages))
        for cpu, (name, stages) in enumerate(GROUPS.items())
    ]


def worker_spec(
    folder: Path, name: str, stages: tuple[str, ...], *, cpu: int = 0, stop_s: float = 30.0, lane: str = "live"
) -> WorkerSpec:
    """How to start a worker of these stages on a core."""
    port = free_port()
    argv = [sys.executable, "-m", "streams", "worker", *stages, "--slot", name, "--lane", lane, "--folder", str(folder)]
    if (os.cpu_count() or 1) > 1:
        argv += ["--cpu", str(cpu)]
    return WorkerSpec(
        name=name,
        argv=tuple(argv),
        env={"HEADRACE_WORKER__HTTP_PORT": str(port)},
        health_url=f"http://127.0.0.1:{port}/readyz",
        stop_grace_s=stop_s + 20.0,
    )
