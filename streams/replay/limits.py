"""What holds a run back: what it may spend, how fast it may go, and live traffic that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal

from schemas.errors import DependencyDownError

# Live traffic that can't be asked about for so long ends the run in order.
PATIENCE_S = 60.0


class PassedOverError(Exception):
    """The event is not to be done: there is no room for it in what may be spent today."""


class LimitReachedError(Exception):
    """The run may not buy what its event needs: nothing is sent, and the event is not done.

    Of no kind that a stage could take for an outcome of the event's: only the step of a run knows it.
    """


async def unless_stopped(asking: Awaitable[bool], stop: asyncio.Event) -> asyncio.Future[bool] | None:
    """What was asked, once that is answered or has failed; ``None`` where ``stop`` comes first."""
    asked, stopped = asyncio.ensure_future(asking), asyncio.ensure_future(stop.wait())
    await asyncio.wait((asked, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if asked.done():
        return asked
    asked.cancel()
    return None


class Purse:
    """What a run may spend: nothing is begun whose worst case would pass the limit while others are open.

    A part of what an event holds may be for what it embeds: attempts at the embedding endpoint take their bounds of it.
    """

    def __init__(self, limit: Decimal | None, spent: Decimal) -> None:
        self._limit, self.spent = limit, spent
        self._open: dict[str, Decimal] = {}
        # Of what an event holds, what is for embeddings and not taken yet; what attempts hold, with their event and
        # what of it was the event's; and what they came to, by event.
        self._room: dict[str, Decimal] = {}
        self._taken: dict[object, tuple[str, Decimal, Decimal]] = {}
        self._bought: dict[str, Decimal] = {}
        self._settled = asyncio.Event()

    def look(self, most: Decimal) -> None:
        """Before anything is waited for: raise ``PassedOverError`` where it is known that the event is not begun."""

    async def open(self, event_id: str, most: Decimal) -> bool:
        """Hold what a call can cost at the most; waits for others to settle. False: the limit is reached."""
        while not self._fits(most):
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

    def keep_for_embeddings(self, event_id: str, most: Decimal) -> None:
        """So much of what the event holds is for what it embeds."""
        self._room[event_id] = most

    def take(self, attempt: object, event_id: str, bound: Decimal, *, may_fail: bool) -> None:
        """Hold an attempt's bound: of what its event keeps for it, and the rest beside that.

        Raises ``LimitReachedError`` where there is no room for the rest; one that must not fail is held all the same,
        and the run begins nothing more.
        """
        own = min(bound, self._room.get(event_id, Decimal(0)))
        if may_fail and bound > own and not self._fits(bound - own):
            raise LimitReachedError("the limit leaves no room for another attempt at the embedding endpoint")
        if own:
            self._room[event_id] -= own
            self._open[event_id] -= own
        self._taken[attempt] = (event_id, bound, own)

    def give(self, attempt: object, amount: Decimal | None) -> None:
        """Book what an attempt cost; ``None``: its bound, because nobody knows."""
        event_id, bound, own = self._taken.pop(attempt)
        if not amount and amount is not None and event_id in self._room:
            # Another attempt may take it again.
            self._room[event_id] += own
            self._open[event_id] += own
        self._bought[event_id] = self._bought.get(event_id, Decimal(0)) + (bound if amount is None else amount)
        self._settled.set()

    def bought(self, event_id: str) -> Decimal:
        """What the event's embeddings cost, which is settled with it; forgets it."""
        self._room.pop(event_id, None)
        return self._bought.pop(event_id, Decimal(0))

    def _fits(self, more: Decimal) -> bool:
        if self._limit is None:
            return True
        taken = sum(bound for _, bound, _ in self._taken.values()) + sum(self._bought.values())
        return self.spent + sum(self._open.values()) + taken + more <= self._limit


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
