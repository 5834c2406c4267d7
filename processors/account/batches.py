"""Books entries that wait at the same time in one transaction; one that can't be kept fails alone."""

from __future__ import annotations

from collections.abc import Sequence

from processors.account.entry import Booked, Entry
from processors.account.ledger import Ledger
from processors.batching import Together
from schemas.errors import PoisonError

# A transaction of so many stays well under a second.
LARGEST = 500


class Batches:
    """Books entries, many at a time. An entry is booked when ``add`` returns, and not before."""

    def __init__(self, ledger: Ledger, *, largest: int = LARGEST) -> None:
        self._ledger = ledger
        self._together: Together[Entry, Booked] = Together(self._record, largest=largest)

    async def add(self, entry: Entry) -> Booked:
        """Book one entry. Blocks until its transaction is committed; raises as ``Ledger.record``.

        An entry that can not be kept fails alone, whatever was to be written with it.
        """
        return await self._together.ask(entry)

    async def _record(self, entries: Sequence[Entry]) -> Sequence[Booked | PoisonError]:
        try:
            return await self._ledger.record(entries)
        except PoisonError as error:
            if len(entries) == 1:
                return [error]
        half = len(entries) // 2
        return [*await self._record(entries[:half]), *await self._record(entries[half:])]
