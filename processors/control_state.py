"""What the control records read so far have made live: prompts, pauses, cancels. Pure; fed by whoever reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from typing import get_args

from processors.control import Cancel, Pausable, Pause
from schemas.errors import PoisonError
from schemas.records import Control

PAUSABLE: tuple[Pausable, ...] = get_args(Pausable)
LONGEST_NAME = 400


class ControlState:
    """Control records, applied in the order of their offsets. Memory: prompts, pauses, and the cancels.

    ``now`` is the database's time; cancels are ``kept`` for as long as the requests they name may still be delivered.
    Without both no cancel is too old.
    """

    def __init__(self, now: Callable[[], datetime] | None = None, *, kept: timedelta | None = None) -> None:
        self._now, self._kept = now, kept
        self._prompts: dict[str, str] = {}
        self._paused: dict[tuple[str, str], Pause] = {}
        # In the order of their offsets.
        self._cancelled: dict[tuple[str, str], Cancel] = {}

    def apply(self, record: Control, *, offset: int, at: datetime) -> bool:
        """Take a record in, appended ``at`` the broker's time. False for a kind that changes nothing here.

        Raises ``PoisonError`` for one that says nothing sensible; the state is as before then.
        """
        if record.kind == "prompt":
            self._prompt(record)
        elif record.kind == "pause":
            self._pause(record, offset, at)
        elif record.kind == "cancel":
            self._cancel(record, offset, at)
        else:
            return False
        return True

    def current_prompt(self, name: str) -> str | None:
        """The version of this prompt that is live now."""
        return self._prompts.get(name)

    def paused(self, kind: Pausable, name: str) -> bool:
        """Whether an operator paused this stage, route or tenant."""
        return (kind, name) in self._paused

    def pauses(self) -> Sequence[Pause]:
        """All that is paused now, oldest first."""
        return tuple(self._paused.values())

    def cancelled(self, tenant: str, request_id: str) -> bool:
        """Whether this request was cancelled."""
        return (tenant, request_id) in self._cancelled

    def cancels(self, after: int = -1) -> Sequence[Cancel]:
        """The cancels from records above the offset ``after``, oldest first. Costs what it returns."""
        latest = takewhile(lambda cancel: cancel.offset > after, reversed(self._cancelled.values()))
        return tuple(latest)[::-1]

    def forget(self) -> None:
        """Drop the cancels that can't matter any more. Costs what it drops."""
        for key in [key for key, _ in takewhile(lambda item: self._over(item[1].at), self._cancelled.items())]:
            del self._cancelled[key]

    def _over(self, at: datetime) -> bool:
        return self._now is not None and self._kept is not None and at < self._now() - self._kept

    def _prompt(self, record: Control) -> None:
        if record.removed:
            self._prompts.pop(record.name, None)
        else:
            self._prompts[record.name] = record.version

    def _pause(self, record: Control, offset: int, at: datetime) -> None:
        kind, name = _split(record, "<stage, route or tenant>/<name>")
        if kind not in PAUSABLE:
            raise PoisonError(f"a pause names {kind[:20]!r}; only {', '.join(PAUSABLE)} can be paused")
        if record.removed:
            self._paused.pop((kind, name), None)
        elif (kind, name) not in self._paused:
            self._paused[kind, name] = Pause(
                kind=next(known for known in PAUSABLE if known == kind),
                name=name,
                since=at,
                offset=offset,
                author=record.author,
                reason=record.reason,
            )

    def _cancel(self, record: Control, offset: int, at: datetime) -> None:
        tenant, request_id = _split(record, "<tenant>/<request_id>")
        if record.removed:
            raise PoisonError("a cancel can't be taken back: a stage may have ended the request; send it anew")
        if self._over(at):
            return
        # Kept in the order of their offsets, so a request that is cancelled again moves to the end.
        self._cancelled.pop((tenant, request_id), None)
        self._cancelled[tenant, request_id] = Cancel(tenant=tenant, request_id=request_id, at=at, offset=offset)


def _split(record: Control, form: str) -> tuple[str, str]:
    before, _, after = record.name.partition("/")
    if not before or not after or len(record.name) > 2 * LONGEST_NAME or not record.name.isprintable():
        raise PoisonError(f"the name of a {record.kind} record has to be {form}")
    return before, after
