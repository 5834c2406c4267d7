"""Slots that several inputs of a stage share: by weight where they compete, all of them for one where it is alone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from streams.gate import Released


class WeightedSlots:
    """``total`` slots by stride scheduling: of the inputs that wait, the one served least for its share is next.

    The wait has no time limit and counts no attempt: when a stage is saturated its events wait, and show as lag.
    """

    def __init__(self, total: int, shares: Mapping[str, int]) -> None:
        self._free = total
        self._shares = dict(shares)
        self._served = dict.fromkeys(shares, 0.0)
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {name: deque() for name in shares}
        self._released = False

    @asynccontextmanager
    async def slot(self, name: str) -> AsyncIterator[None]:
        """Hold a slot. Blocks while there is none; raises ``Released`` when the worker stops meanwhile."""
        await self._acquire(name)
        try:
            yield
        finally:
            self._free += 1
            self._grant()

    def release(self) -> None:
        """Let go of all that waits, for good."""
        self._released = True
        for queue in self._waiting.values():
            for waiter in queue:
                if not waiter.done():
                    waiter.set_exception(Released())
            queue.clear()

    async def _acquire(self, name: str) -> None:
        if self._released:
            raise Released
        if not self._waiting[name]:
            # An input that was idle has no claim on what it did not use.
            busy = [served for each, served in self._served.items() if self._waiting[each]]
            self._served[name] = max([self._served[name], *([min(busy)] if busy else [])])
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[name].append(waiter)
        self._grant()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._free += 1
                self._grant()
            raise

    def _grant(self) -> None:
        while self._free > 0:
            for queue in self._waiting.values():
                while queue and queue[0].done():
                    queue.popleft()
            waiting = [name for name, queue in self._waiting.items() if queue]
            if not waiting:
                return
            name = min(waiting, key=lambda each: self._served[each])
            self._served[name] += 1.0 / self._shares[name]
            self._free -= 1
            self._waiting[name].popleft().set_result(None)
