"""Following what live leaves, for as long as a step of a replay lasts; and telling what the replay waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from schemas.errors import DependencyDownError, HeadraceError
from streams.capacity.spare import Leftover
from streams.capacity.store import Uses
from streams.capacity.told import Holder, Told

INTERVAL_S = 0.5
# What can't be known for so long ends the step in order.
PATIENCE_S = 60.0
FAREWELL_S = 2.0


class Following:
    """Looks again and again, for the run ``holder`` that reads ``lane``.

    ``left`` is what its calls may take, ``None`` where it makes none; ``waits`` says what else it waits for, in words.
    """

    def __init__(
        self,
        uses: Uses,
        *,
        holder: str,
        lane: str,
        left: Leftover | None = None,
        waits: Callable[[], str] = lambda: "",
        interval_s: float = INTERVAL_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._uses, self._holder, self._lane, self._left, self._waits = uses, holder, lane, left, waits
        self._interval_s, self._patience_s = interval_s, patience_s

    async def run(self) -> None:
        """Look until it is cancelled; then take away what was told.

        While the store is away nothing may be taken; raises ``DependencyDownError`` once that lasts.
        """
        loop = asyncio.get_running_loop()
        heard = loop.time()
        try:
            while True:
                try:
                    await self.look()
                    heard = loop.time()
                except DependencyDownError:
                    if loop.time() - heard > self._patience_s:
                        raise
                await asyncio.sleep(self._interval_s)
        finally:
            # Where it fails, others take it for gone after a while.
            with suppress(HeadraceError, TimeoutError):
                async with asyncio.timeout(FAREWELL_S):
                    await self._uses.forget(self._holder)

    async def look(self) -> None:
        """Look once. Blocks on the store, and for other replays that look; raises ``DependencyDownError``."""
        try:
            await self._uses.claim(self._holder, self._lane, self._decide)
        except BaseException:
            if self._left is not None:
                self._left.blind("what live uses can't be read")
            raise

    def _decide(self, holders: Sequence[Holder]) -> tuple[Mapping[str, Told], str]:
        told, said = ({}, "") if self._left is None else self._left.decide(holders)
        return told, self._waits() or said
