"""Telling which process a stop is about, with the last it wrote."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from infra.embedded.stack import status
from infra.embedded.state import tail
from schemas.errors import HeadraceError
from streams.overview.snapshot import Lookout
from streams.settings import Settings

LINES = 15


class DemoError(HeadraceError):
    """The demonstration can't go on; the message names dead letters, the component and its log's last lines."""


def dead_letters(settings: Settings, *, lane: str) -> str:
    """How to see why events were given up; empty where none were, or nobody can tell. Blocks on broker and Postgres."""
    with Lookout(settings, lane) as lookout:
        count = lookout.look().open_letters
    if not count:
        return ""
    command = f"headrace dlq list --lane {lane} --folder {settings.folder}"
    return f"{count} dead letter{'s are' if count > 1 else ' is'} open; what failed and why: {command}"


def failure(folder: Path, reason: str, *, suspects: Collection[str], letters: str = "") -> DemoError:
    """An error about whatever is not ready, else about the ``suspects``, with the end of their logs.

    ``letters``: what ``dead_letters`` said; told before the logs.
    """
    state = status(folder)
    if not state.running:
        return DemoError(f"{reason}: the stack in {folder} was stopped")
    ill = [child for child in state.components if child.status != "ready"]
    shown = ill or [child for child in state.components if child.name in suspects]
    parts = [f"{reason}; {', '.join(f'{child.name} is {child.status}' for child in shown)}"]
    if letters:
        parts.append(letters)
    for child in shown:
        parts.append(f"last lines of {child.log}:\n{tail(Path(child.log), LINES) or '(empty)'}")
    return DemoError("\n".join(parts))
