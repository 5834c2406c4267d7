"""What the stage asks of its storage, and the ledger in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from processors.account.entry import Booked, Entry, Spender
from processors.account.rule import Standing, add, opened
from schemas.errors import DependencyDownError, PoisonError


class Ledger(Protocol):
    """The books."""

    async def record(self, entries: Sequence[Entry]) -> Sequence[Booked]:
        """Book these entries in one transaction, durable when it returns; what each one was, in their order.

        Booking an entry again is harmless. Raises ``DependencyDownError``, and ``PoisonError`` when one of them can
        not be kept: then none of them is.
        """
        ...


class FakeLedger:
    """The ledger in memory, with the same rule. ``refused`` are attempts that it does not take."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Spender, Standing]] = {}
        self.batches: list[int] = []
        self.refused: set[str] = set()
        self.down = False

    async def record(self, entries: Sequence[Entry]) -> Sequence[Booked]:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")
        if any(entry.attempt_id in self.refused for entry in entries):
            raise PoisonError("told to refuse it")
        self.batches.append(len(entries))
        return [self._record(entry) for entry in entries]

    def _record(self, entry: Entry) -> Booked:
        spender, standing = self.rows.get(entry.attempt_id, (entry.spender, None))
        if standing is None:
            self.rows[entry.attempt_id] = (spender, opened(entry.said))
            return "new"
        after, booked = add(entry.attempt_id, standing, entry.said)
        self.rows[entry.attempt_id] = (spender, after)
        return booked
