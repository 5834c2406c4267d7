"""How long work of the stack tells what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Progress:
    """One report. ``done`` and ``total`` are bytes while downloading and unused otherwise."""

    what: str
    state: Literal["waiting", "downloading", "unpacking", "preparing", "starting", "ready", "stopping", "stopped"]
    done: int = 0
    total: int = 0


OnProgress = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Reports nothing."""
