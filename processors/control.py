"""What is live now: a read-only view of the control topic, which every worker follows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from schemas.errors import RefusedError

Pausable = Literal["stage", "route", "tenant"]
CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """What an operator paused. ``since`` is the broker's append time, ``offset`` that of its control record."""

    kind: Pausable
    name: str
    since: datetime
    offset: int
    author: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """A request that is to end. ``at`` is the broker's append time, ``offset`` that of its control record."""

    tenant: str
    request_id: str
    at: datetime
    offset: int


def cancelled_error() -> RefusedError:
    """What ends a cancelled request, whatever stage has it: ``failed`` with the code ``cancelled``."""
    return RefusedError(CANCELLED, "the request was cancelled by an operator", status="failed")


class ControlView(Protocol):
    """Answers from memory, without blocking, except for the two that wait for a change."""

    @property
    def offset(self) -> int:
        """Offset of the last control record known; -1 before the first."""
        ...

    def current_prompt(self, name: str) -> str | None:
        """The version of this prompt that is live now (the n of ``name@n``); ``None`` when none was made live."""
        ...

    def paused(self, kind: Pausable, name: str) -> bool:
        """Whether an operator paused this stage, route or tenant."""
        ...

    def cancelled(self, tenant: str, request_id: str) -> bool:
        """Whether this request was cancelled."""
        ...

    async def until_cancelled(self, tenant: str, request_id: str) -> None:
        """Return when this request is cancelled, at once where it was; blocks for ever otherwise."""
        ...

    def pauses(self) -> Sequence[Pause]:
        """All that is paused now, oldest first."""
        ...

    def cancels(self, after: int = -1) -> Sequence[Cancel]:
        """The cancels that still matter from records above the offset ``after``, oldest first."""
        ...

    async def changed(self) -> None:
        """Return at the next control record."""
        ...


_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class FakeControl:
    """A control view that a test sets."""

    def __init__(self, prompts: Mapping[str, str] | None = None, *, offset: int = -1) -> None:
        self.prompts = dict(prompts or {})
        self._offset = offset
        self._paused: dict[tuple[Pausable, str], Pause] = {}
        self._cancelled: dict[tuple[str, str], Cancel] = {}
        self._change = asyncio.Event()

    @property
    def offset(self) -> int:
        return self._offset

    def current_prompt(self, name: str) -> str | None:
        return self.prompts.get(name)

    def paused(self, kind: Pausable, name: str) -> bool:
        return (kind, name) in self._paused

    def cancelled(self, tenant: str, request_id: str) -> bool:
        return (tenant, request_id) in self._cancelled

    async def until_cancelled(self, tenant: str, request_id: str) -> None:
        while not self.cancelled(tenant, request_id):
            await self.changed()

    def pauses(self) -> Sequence[Pause]:
        return tuple(self._paused.values())

    def cancels(self, after: int = -1) -> Sequence[Cancel]:
        return tuple(cancel for cancel in self._cancelled.values() if cancel.offset > after)

    async def changed(self) -> None:
        await self._change.wait()

    def activate(self, name: str, version: str) -> None:
        """Make a version live, as a control record would."""
        self.prompts[name] = version
        self._moved()

    def pause(self, kind: Pausable, name: str) -> None:
        """Pause, as a control record would."""
        self._paused[kind, name] = Pause(kind=kind, name=name, since=_BEGINNING, offset=self._offset + 1)
        self._moved()

    def resume(self, kind: Pausable, name: str) -> None:
        """Resume, as a control record would."""
        self._paused.pop((kind, name), None)
        self._moved()

    def cancel(self, tenant: str, request_id: str) -> None:
        """Cancel, as a control record would."""
        cancel = Cancel(tenant=tenant, request_id=request_id, at=_BEGINNING, offset=self._offset + 1)
        self._cancelled[tenant, request_id] = cancel
        self._moved()

    def _moved(self) -> None:
        self._offset += 1
        self._change.set()
        self._change = asyncio.Event()
