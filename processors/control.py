"""What is live now: a read-only view of the control topic, which every worker follows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal, Protocol

Pausable = Literal["stage", "route", "tenant"]


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

    async def changed(self) -> None:
        """Return at the next control record."""
        ...


class FakeControl:
    """A control view that a test sets."""

    def __init__(self, prompts: Mapping[str, str] | None = None, *, offset: int = -1) -> None:
        self.prompts = dict(prompts or {})
        self._offset = offset
        self._paused: set[tuple[str, str]] = set()
        self._cancelled: set[tuple[str, str]] = set()
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

    async def changed(self) -> None:
        await self._change.wait()

    def activate(self, name: str, version: str) -> None:
        """Make a version live, as a control record would."""
        self.prompts[name] = version
        self._moved()

    def pause(self, kind: Pausable, name: str) -> None:
        """Pause, as a control record would."""
        self._paused.add((kind, name))
        self._moved()

    def resume(self, kind: Pausable, name: str) -> None:
        """Resume, as a control record would."""
        self._paused.discard((kind, name))
        self._moved()

    def cancel(self, tenant: str, request_id: str) -> None:
        """Cancel, as a control record would."""
        self._cancelled.add((tenant, request_id))
        self._moved()

    def _moved(self) -> None:
        self._offset += 1
        self._change.set()
        self._change = asyncio.Event()
