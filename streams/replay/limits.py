"""What holds a run back: what it may spend, how fast it may go, and live traffic that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

from schemas.errors import DependencyDownError

# Live traffic that can't be asked about for so long ends the run in order.
PATIENCE_S = 60.0


class PassedOverError(Exception):
    """The event is not to be done: there is no room for it in what may be spent today."""


class Purse:
    """What a run may spend: nothing is begun whose worst case would pass the limit while others are open."""

    def __init__(self, limit: Decimal | None, spent: Decimal) -> None:
        self._limit, self.spent = limit, spent
        self._open: dict[str, Decimal] = {}
        self._settled = asyncio.Event()

    def look(self, most: Decimal) -> None:
        """Before anything is waited for: raise ``PassedOverError`` where it is known that the event is not begun."""

    async def open(self, event_id: str, most: Decimal) -> bool:
        """Hold what a call can cost at the most; waits for others to settle. False: the limit is reached."""
        while self._limit is not None and self.spent + sum(self._open.values()) + most > self._limit:
            if not self._open:
                return False
            self._settled.clear()
            await self._settled.wait()
        self._open[event_id] = most
        return True

    def settle(self, event_id: str, cost: Decimal) -> None:
        """Book what a call cost."""
        self._open.pop(event_id, None)
        self.spent += cost
        self._settled.set()


class Pace:
    """At most so many events a second, evenly."""

    def __init__(self, rate: float | None) -> None:
        self._interval_s = 0.0 if rate is None else 1 / rate
        self._next = 0.0

    async def wait(self) -> None:
        """Return when the next event may begin."""
        if not self._interval_s:
            return
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now) + self._interval_s
        await asyncio.sleep(self._next - self._interval_s - now)


class Yielding:
    """Lets live traffic go first: while requests wait before the live stage, no event of a replay is begun."""

    def __init__(
        self, waiting: Callable[[], int], *, least: int, interval_s: float = 1.0, patience_s: float = PATIENCE_S
    ) -> None:
        """``waiting`` blocks on the broker; ``least`` are in hand of the live stage without waiting."""
        self._waiting, self._least = waiting, least
        self._interval_s, self._patience_s = interval_s, patience_s
        # Nothing is begun before the first answer.
        self._free = asyncio.Event()
        self._queued = False

    async def run(self) -> None:
        """Look again and again.

        While the broker is away nothing is begun; raises ``DependencyDownError`` once that lasts, and at once what no
        waiting mends.
        """
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while True:
            try:
                free = await asyncio.to_thread(self._waiting) <= self._least
                heard = loop.time()
            except DependencyDownError:
                free = False
                if loop.time() - heard > self._patience_s:
                    self._free.clear()
                    raise
            self._queued = not free
            if free:
                self._free.set()
            else:
                self._free.clear()
            await asyncio.sleep(self._interval_s)

    @property
    def free(self) -> bool:
        """Whether live traffic has what it needs."""
        return self._free.is_set()

    @property
    def queued(self) -> bool:
        """Whether live traffic was seen to wait, or can't be seen."""
        return self._queued

    async def wait(self) -> None:
        """Return while live traffic has what it needs."""
        await self._free.wait()
