"""Puts entries that wait at the same time into one transaction: as many as came while the last one was written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from processors.account.entry import Booked, Entry
from processors.account.ledger import Ledger
from schemas.errors import PoisonError

# A transaction of so many stays well under a second.
LARGEST = 500


class Batches:
    """Books entries, many at a time. An entry is booked when ``add`` returns, and not before."""

    def __init__(self, ledger: Ledger, *, largest: int = LARGEST) -> None:
        self._ledger, self._largest = ledger, largest
        self._waiting: list[tuple[Entry, asyncio.Future[Booked]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def add(self, entry: Entry) -> Booked:
        """Book one entry. Blocks until its transaction is committed; raises as ``Ledger.record``.

        An entry that can not be kept fails alone, whatever was to be written with it.
        """
        future: asyncio.Future[Booked] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        while self._waiting:
            batch = self._waiting[: self._largest]
            del self._waiting[: self._largest]
            # Whoever gave up waiting is served when its event comes again.
            await self._book([(entry, future) for entry, future in batch if not future.done()])

    async def _book(self, batch: Sequence[tuple[Entry, asyncio.Future[Booked]]]) -> None:
        if not batch:
            return
        try:
            outcomes = await self._ledger.record([entry for entry, _ in batch])
        except PoisonError as error:
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            half = len(batch) // 2
            await self._book(batch[:half])
            await self._book(batch[half:])
        except Exception as error:
            for _, future in batch:
                _fail(future, error)
        else:
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                with suppress(asyncio.InvalidStateError):
                    future.set_result(outcome)


def _fail(future: asyncio.Future[Booked], error: Exception) -> None:
    with suppress(asyncio.InvalidStateError):
        future.set_exception(error)
