"""What is live now: a read-only view of the control topic, which every worker follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class ControlView(Protocol):
    """Answers from memory, without blocking."""

    @property
    def offset(self) -> int:
        """Offset of the last control record known; -1 before the first."""
        ...

    def current_prompt(self, name: str) -> str | None:
        """The version of this prompt that is live now (the n of ``name@n``); ``None`` when none was made live."""
        ...


class FakeControl:
    """A control view that a test sets."""

    def __init__(self, prompts: Mapping[str, str] | None = None, *, offset: int = -1) -> None:
        self.prompts = dict(prompts or {})
        self._offset = offset

    @property
    def offset(self) -> int:
        return self._offset

    def current_prompt(self, name: str) -> str | None:
        return self.prompts.get(name)

    def activate(self, name: str, version: str) -> None:
        """Make a version live, as a control record would."""
        self._offset += 1
        self.prompts[name] = version
