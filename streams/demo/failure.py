"""Telling which process a stop is about, with the last it wrote."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from infra.embedded.stack import status
from infra.embedded.state import tail
from schemas.errors import HeadraceError

LINES = 15


class DemoError(HeadraceError):
    """The demonstration can't go on; the message names the component and its log's last lines."""


def failure(folder: Path, reason: str, *, suspects: Collection[str]) -> DemoError:
    """An error about whatever is not ready, else about the ``suspects``, with the end of their logs."""
    state = status(folder)
    if not state.running:
        return DemoError(f"{reason}: the stack in {folder} was stopped")
    ill = [child for child in state.components if child.status != "ready"]
    shown = ill or [child for child in state.components if child.name in suspects]
    parts = [f"{reason}; {', '.join(f'{child.name} is {child.status}' for child in shown)}"]
    for child in shown:
        parts.append(f"last lines of {child.log}:\n{tail(Path(child.log), LINES) or '(empty)'}")
    return DemoError("\n".join(parts))
