"""What was live on ``control`` at an offset: every name's last change. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from schemas.records import Control
from streams.opened import Opened, iso


@dataclass(frozen=True, slots=True)
class Change:
    """A control record and where it lies."""

    offset: int
    at: datetime
    record: Control

    @property
    def names(self) -> tuple[str, str]:
        """What it changes."""
        return self.record.kind, self.record.name


def changes(opened: Iterable[Opened]) -> list[Change]:
    """The records that say something, in order of offset."""
    found = [Change(one.entry.offset, one.entry.time, one.record) for one in opened if isinstance(one.record, Control)]
    return sorted(found, key=lambda change: change.offset)


def live_at(history: Sequence[Change], offset: int) -> dict[tuple[str, str], Change]:
    """The change that holds for each kind and name at this offset. Cancels change nothing that is live."""
    live: dict[tuple[str, str], Change] = {}
    for change in history:
        if change.offset > offset:
            break
        if change.record.kind == "cancel":
            continue
        live.pop(change.names, None)
        if not change.record.removed:
            live[change.names] = change
    return live


def moments(history: Sequence[Change], decided: Collection[tuple[int, str]], *, cancelled: str) -> list[dict[str, Any]]:
    """For each offset under which something was decided, what was live then. ``decided``: offsets with stages.

    ``cancelled`` is the tenant and request of ``<tenant>/<request_id>``: whether it was cancelled by then is told.
    """
    shown = []
    for offset in sorted({offset for offset, _ in decided}):
        stages = sorted({stage for other, stage in decided if other == offset})
        ended = any(
            change.offset <= offset and change.record.kind == "cancel" and change.record.name == cancelled
            for change in history
        )
        live = [change_view(change) for change in live_at(history, offset).values()]
        shown.append({"offset": offset, "stages": stages, "cancelled": ended, "live": live})
    return shown


def change_view(change: Change) -> dict[str, Any]:
    """A control record in a few words."""
    record = change.record
    return {
        "offset": change.offset,
        "at": iso(change.at),
        "kind": record.kind,
        "name": record.name,
        "version": record.version,
        "digest": record.digest,
        "author": record.author,
        "reason": record.reason,
    }
