"""What ``stack.json`` says: which processes run, where they listen, and what settings need to reach them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["starting", "ready", "unready", "restarting", "failed", "stopping", "stopped"]


@dataclass(frozen=True, slots=True)
class ChildState:
    """One process as its supervisor last saw it. Times are seconds since the epoch."""

    name: str
    kind: str
    status: Status
    pid: int | None = None
    port: int | None = None
    version: str = ""
    restarts: int = 0
    started_at: float | None = None
    exit_code: int | None = None
    health_url: str | None = None
    log: str = ""


@dataclass(frozen=True, slots=True)
class StackState:
    """The whole stack. ``running`` says whether its supervisor lives; only then the statuses mean anything."""

    folder: str
    running: bool = False
    supervisor_pid: int | None = None
    started_at: float | None = None
    endpoints: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    components: tuple[ChildState, ...] = ()

    def child(self, name: str) -> ChildState | None:
        return next((child for child in self.components if child.name == name), None)

    @property
    def healthy(self) -> bool:
        """Whether the supervisor lives and every process is ready."""
        return self.running and all(child.status == "ready" for child in self.components)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StackState:
        return cls(**{**data, "components": tuple(ChildState(**child) for child in data["components"])})


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in a stack's folder."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "stack.json"

    @property
    def desired(self) -> Path:
        """The children that the supervisor shall run; whoever holds ``change_lock`` may write it."""
        return self.folder / "desired.json"

    @property
    def change_lock(self) -> Path:
        return self.folder / "change.lock"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.folder / "supervisor.lock"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replace a file in one step: a reader sees the old or the new text, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(data, stream, indent=1)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's object, or None when it is missing or no JSON object."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def tail(path: Path, lines: int = 20, *, limit_bytes: int = 64_000) -> str:
    """The last lines of a log, or nothing if there is none."""
    try:
        with path.open("rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(0, handle.tell() - limit_bytes))
            text = handle.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])
