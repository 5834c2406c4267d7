"""What the supervisor has to know about a process to start, watch and stop it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal["component", "worker"]


@dataclass(frozen=True, slots=True)
class Health:
    """How readiness is asked for: ``http`` wants a 200 from ``target``, ``kafka`` and ``postgres`` speak the protocol.

    ``none`` takes a process that runs for ready.
    """

    kind: Literal["http", "kafka", "postgres", "none"]
    target: str = ""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A process of the application that runs beside the components. ``health_url`` answers 200 when it is ready."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    health_url: str | None = None
    stop_grace_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child of the supervisor. ``user`` is set only where the supervisor is root and the child must not be."""

    name: str
    kind: Kind
    argv: tuple[str, ...]
    health: Health
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    user: str | None = None
    port: int | None = None
    version: str = ""
    stop_signal: str = "SIGTERM"
    stop_grace_s: float = 10.0
    start_timeout_s: float = 60.0
    nice: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "argv": list(self.argv), "env": dict(self.env)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ChildSpec:
        return cls(**{**data, "argv": tuple(data["argv"]), "health": Health(**data["health"])})

    @classmethod
    def from_worker(cls, worker: WorkerSpec) -> ChildSpec:
        health = Health("http", worker.health_url) if worker.health_url else Health("none")
        port = _port(worker.health_url) if worker.health_url else None
        return cls(
            name=worker.name,
            kind="worker",
            argv=worker.argv,
            health=health,
            env=worker.env,
            port=port,
            stop_grace_s=worker.stop_grace_s,
        )


def python_argv(module: str, *arguments: str) -> tuple[str, ...]:
    """The command line that runs one of our modules with this interpreter."""
    return (sys.executable, "-m", module, *arguments)


def _port(url: str) -> int | None:

    return urlsplit(url).port
