"""Puts what waits at the same time into one round trip: as many as came while the last one was made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

# A statement of so many stays well under a second.
LARGEST = 256


class Together(Generic[Asked, Answered]):
    """Calls ``work`` with all that was asked meanwhile; one call at a time, answers in the order of what was asked.

    An answer that is an exception is raised to its asker alone (``processors.alone`` makes such).

    With ``unheard``, what nobody waits for any more when its turn comes is left out; it gets an answer whose asker went
    away while it was worked on, to undo it, and raises nothing. Without it, all that was asked is worked on.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Asked]], Awaitable[Sequence[Answered | Exception]]],
        *,
        largest: int = LARGEST,
        unheard: Callable[[Asked, Answered], Awaitable[None]] | None = None,
    ) -> None:
        self._work, self._largest, self._unheard = work, largest, unheard
        self._waiting: list[tuple[Asked, asyncio.Future[Answered]]] = []
        self._task: asyncio.Task[None] | None = None
        # Held here until they end, because the event loop does not.
        self._undoing: set[asyncio.Task[None]] = set()

    async def ask(self, one: Asked) -> Answered:
        """Ask for one. Blocks until the call that it goes in has returned, and raises what that raises, or answers.

        Cancelled when its answer is there but was not taken yet, it blocks until ``unheard`` has undone that.
        """
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, future))
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._run())
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                await self._undo(one, future.result())
            raise

    async def _undo(self, one: Asked, answer: Answered) -> None:
        """Undo an answer that nobody took; it is undone even when the asker is cancelled again meanwhile."""
        if self._unheard is not None:
            task = asyncio.ensure_future(self._unheard(one, answer))
            self._undoing.add(task)
            task.add_done_callback(self._undoing.discard)
            await asyncio.shield(task)

    async def _run(self) -> None:
        while self._waiting:
            batch = self._waiting[: self._largest]
            del self._waiting[: self._largest]
            if self._unheard is not None:
                batch = [pair for pair in batch if not pair[1].done()]
            if not batch:
                continue
            try:
                answers = await self._work([one for one, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (one, future), answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    if not future.done():
                        future.set_exception(answer)
                elif not future.done():
                    future.set_result(answer)
                elif self._unheard is not None:
                    await self._unheard(one, answer)
