"""The processes of the embedded stack, for a person and as JSON."""

from __future__ import annotations

import json as jsonlib
import time
import urllib.error
import urllib.request
from dataclasses import asdict, replace
from typing import Any

from rich.table import Table
from rich.text import Text

from infra.embedded.state import ChildState, StackState
from streams.cli.output import page

READYZ_TIMEOUT_S = 3.0
READYZ_MAX_BYTES = 10_000
COLOURS = {"ready": "green", "failed": "red", "stopped": "dim"}


def describe(state: StackState) -> dict[str, Any]:
    """The state as JSON, with each worker's own answer about its readiness."""
    now = time.time()
    children = []
    for child in state.components:
        uptime_s = round(now - child.started_at, 1) if child.pid and child.started_at else None
        children.append({**asdict(child), "uptime_s": uptime_s, "readyz": readyz(child)})
    return {**asdict(replace(state, components=())), "healthy": state.healthy, "components": children}


def readyz(child: ChildState) -> dict[str, Any] | None:
    """What a worker answers to ``/readyz``; None for components and for what does not run."""
    if child.kind != "worker" or child.pid is None or child.health_url is None:
        return None
    try:
        with urllib.request.urlopen(child.health_url, timeout=READYZ_TIMEOUT_S) as response:  # noqa: S310
            return {"status": response.status, "answer": _answer(response.read(READYZ_MAX_BYTES))}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "answer": _answer(error.read(READYZ_MAX_BYTES))}
    except OSError as error:
        return {"status": None, "answer": str(error)}


def _answer(body: bytes) -> Any:
    try:
        return jsonlib.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def show_components(state: StackState) -> None:
    """A table on stdout."""
    table = Table("", "state", "pid", "port", "restarts", "up", "version", box=None, pad_edge=False)
    for child in describe(state)["components"]:
        shown = child["status"] if child["readyz"] in (None, {}) or child["status"] == "ready" else _reason(child)
        table.add_row(
            child["name"],
            Text(shown, style=COLOURS.get(child["status"], "yellow")),
            str(child["pid"] or ""),
            str(child["port"] or ""),
            str(child["restarts"]),
            say_age(child["uptime_s"]),
            child["version"],
        )
    page().print(table)


def _reason(child: dict[str, Any]) -> str:
    return f"{child['status']}: {child['readyz']['answer']}"


def say_age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
