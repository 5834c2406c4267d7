"""The stage itself: one cost event in, nothing out; its row is in the ledger when it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from processors.account.batches import Batches
from processors.account.entry import Booked, Entry, entry_of
from processors.account.ledger import Ledger
from processors.event import Incoming, Output
from schemas.records import Cost

# Hears of every entry and what it was. Must not block or raise.
Observe = Callable[[Entry, Booked], None]


def _unobserved(entry: Entry, booked: Booked) -> None:
    """Count nothing."""


class Account:
    """Keeps the books. Events that are in process at the same time share a transaction."""

    def __init__(self, ledger: Ledger, *, observe: Observe = _unobserved) -> None:
        self._batches = Batches(ledger)
        self._observe = observe

    async def __call__(self, incoming: Incoming[Cost]) -> Sequence[Output]:
        """Book one event; blocks until that is committed.

        Raises ``PoisonError`` for an event that can not be kept and ``DependencyDownError`` while Postgres is away.
        """
        entry = entry_of(incoming)
        self._observe(entry, await self._batches.add(entry))
        return []
