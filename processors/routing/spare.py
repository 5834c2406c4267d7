"""What a process may take of deployments that others use too, and before it: the port, and the two simplest of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol


class Spare(Protocol):
    """What others leave of deployments. Nothing here blocks or raises."""

    def places(self, deployment: str) -> int:
        """How many calls this process may have open there now."""
        ...

    def fits(self, deployment: str, tokens: int) -> bool:
        """Whether one more request of so many tokens fits into what others leave of its limits a minute."""
        ...

    def began(self, deployment: str, tokens: int) -> None:
        """A call begins there."""
        ...

    def ended(self, deployment: str) -> None:
        """A call that began there is over."""
        ...

    def unsent(self, deployment: str, tokens: int) -> None:
        """A call that began there was never made; it ends beside."""
        ...

    def throttled(self, deployment: str) -> None:
        """Its provider said that there are too many calls."""
        ...

    def watch(self, look: Callable[[], None]) -> None:
        """Call ``look`` whenever there may be more than before."""
        ...


class Everything:
    """A process that shares with nobody: a worker, whose own limits are all that holds."""

    def places(self, deployment: str) -> int:  # noqa: ARG002
        return sys.maxsize

    def fits(self, deployment: str, tokens: int) -> bool:  # noqa: ARG002
        return True

    def began(self, deployment: str, tokens: int) -> None: ...

    def ended(self, deployment: str) -> None: ...

    def unsent(self, deployment: str, tokens: int) -> None: ...

    def throttled(self, deployment: str) -> None: ...

    def watch(self, look: Callable[[], None]) -> None: ...


class FakeSpare:
    """What a test says is left: ``left`` places by deployment, others have none; ``per_minute`` requests to come."""

    def __init__(self, left: dict[str, int], *, per_minute: int = sys.maxsize) -> None:
        self.left, self.per_minute = left, per_minute
        self.refused: list[str] = []
        self._looks: list[Callable[[], None]] = []

    def places(self, deployment: str) -> int:
        return self.left.get(deployment, 0)

    def fits(self, deployment: str, tokens: int) -> bool:  # noqa: ARG002
        return self.per_minute > 0

    def began(self, deployment: str, tokens: int) -> None:  # noqa: ARG002
        self.per_minute -= 1

    def ended(self, deployment: str) -> None: ...

    def unsent(self, deployment: str, tokens: int) -> None:  # noqa: ARG002
        self.per_minute += 1

    def throttled(self, deployment: str) -> None:
        self.refused.append(deployment)

    def watch(self, look: Callable[[], None]) -> None:
        self._looks.append(look)

    def give(self, deployment: str, places: int) -> None:
        """Leave so many places from now on."""
        self.left[deployment] = places
        for look in self._looks:
            look()
