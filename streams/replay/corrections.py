"""Waits for the corrections that consumers sent: a backfill knows of those that the lane's evaluate stage stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from schemas.errors import DependencyDownError
from streams.reading import Place

# How far the stage has committed each partition of the feedback, and where that ends. Blocks on the broker.
Feedback = Callable[[], Mapping[Place, tuple[int, int]]]


class Corrections:
    """What was sent until the first look; what comes later is too late for the answers at hand."""

    def __init__(self, feedback: Feedback) -> None:
        self._feedback = feedback
        self._ends: dict[Place, int] | None = None

    async def stored(self) -> None:
        """Return once all of it is stored. Raises ``DependencyDownError`` while it is not: ask again."""
        found = await asyncio.to_thread(self._feedback)
        if self._ends is None:
            self._ends = {place: end for place, (_, end) in found.items()}
        left = sum(max(0, self._ends.get(place, 0) - done) for place, (done, _) in found.items())
        if left:
            raise DependencyDownError(
                "the evaluate stage",
                f"{left} events of feedback are not stored yet, and may correct answers that would be replaced; "
                "have a worker of evaluate in the source lane, and resume",
            )
