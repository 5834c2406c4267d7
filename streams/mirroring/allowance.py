"""What a mirror may spend today: what does not fit any more is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date
from decimal import Decimal
from typing import TypeVar

from processors.clock import Clock
from schemas.errors import DependencyDownError
from streams.mirroring.days import Days
from streams.replay.limits import PassedOverError, Purse

T = TypeVar("T")
# A store that is away is asked again after this long, up to so often.
PAUSE_S, PATIENCE = 1.0, 60


class Allowance(Purse):
    """A purse that is filled anew each day. What is held and spent is in the store before anything is begun."""

    def __init__(self, days: Days, clock: Clock) -> None:
        super().__init__(None, Decimal(0))
        self._days, self._clock = days, clock
        # What found no room, and on which day: nothing was open that might have made some.
        self._full: tuple[date, Decimal] | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self._failed: BaseException | None = None

    def look(self, most: Decimal) -> None:
        if most and self._full is not None and self._full[0] == self._clock.now().date() and most >= self._full[1]:
            raise PassedOverError

    async def open(self, event_id: str, most: Decimal) -> bool:
        """Hold what the event can cost at the most; waits for others of it to settle where there is no room.

        Raises ``PassedOverError`` where that won't help, ``FencedError``, and ``DependencyDownError`` for a store that
        is away for a minute.
        """
        while most:
            self._settled.clear()
            room = await patiently(lambda: self._days.hold(event_id, most))
            if room.found:
                break
            if not self._open and not self._settling:
                self._full = (room.day, most)
                raise PassedOverError
            await self._settled.wait()
        if most:
            self._open[event_id] = most
        return True

    def settle(self, event_id: str, cost: Decimal) -> None:
        if self._open.pop(event_id, None) is None and not cost:
            return
        self.spent += cost
        task = asyncio.ensure_future(self._book(event_id, cost))
        self._settling.add(task)
        task.add_done_callback(self._booked)

    async def settled(self) -> None:
        """Return once all that was settled is in the store. Raises ``DependencyDownError`` as ``open``."""
        while self._settling:
            await asyncio.wait(self._settling)
        if self._failed is not None:
            raise self._failed

    async def _book(self, event_id: str, cost: Decimal) -> None:
        await patiently(lambda: self._days.settle(event_id, cost))

    def _booked(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        self._failed = self._failed or (None if task.cancelled() else task.exception())
        self._settled.set()


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """The result, once what is needed is there again; raises ``DependencyDownError`` when that takes a minute."""
    for tried in range(PATIENCE):
        try:
            return await work()
        except DependencyDownError:
            if tried == PATIENCE - 1:
                raise
        await asyncio.sleep(PAUSE_S)
    raise AssertionError("unreachable")
