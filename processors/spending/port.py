"""Where attempts at the embedding endpoint are booked, and a book in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol

from processors.clock import Clock, FakeClock
from schemas.errors import DependencyDownError


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """An attempt that is about to be sent. ``event`` makes its cost event at the upper bound, from its number.

    ``asked`` is the digest of its texts; ``due_s``: after so many seconds without an outcome that event is published.
    """

    spender: str
    lane: str
    tenant: str
    asked: bytes
    event: Callable[[int], bytes]
    due_s: float


@dataclass(frozen=True, slots=True)
class Opened:
    """It is booked under this number, and may be sent."""

    ordinal: int


@dataclass(frozen=True, slots=True)
class Bought:
    """An earlier delivery asked for the same texts: their vectors, as they were kept. Nothing is to be sent."""

    vectors: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What became of an attempt: its cost event, and the vectors to be kept. No event: nothing was spent."""

    spender: str
    ordinal: int
    event: bytes | None = None
    vectors: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Untold:
    """A cost event that nobody has published yet."""

    spender: str
    ordinal: int
    event: bytes


class Spends(Protocol):
    """Every method is one transaction, durable when it returns; raises ``DependencyDownError``."""

    async def open(self, openings: Sequence[Opening]) -> Sequence[Opened | Bought]:
        """Book attempts before they are sent, in the order given; each spender once."""
        ...

    async def close(self, closings: Sequence[Closing]) -> None:
        """Book what became of them. An attempt that was told at its upper bound meanwhile stays so."""
        ...

    async def take(self, lane: str, *, limit: int, hold_s: float) -> Sequence[Untold]:
        """Cost events to publish, left alone by others for ``hold_s``. One without an outcome is taken for lost."""
        ...

    async def told(self, untold: Sequence[Untold]) -> None:
        """Note that the broker has them."""
        ...


@dataclass(slots=True)
class Spend:
    """A row of the book in memory."""

    opening: Opening
    event: bytes | None
    due_at: datetime
    state: str = "open"
    vectors: bytes | None = None
    told: bool = False


@dataclass(slots=True)
class MemorySpends:
    """Spends that a process keeps for itself, under the same rules. ``down`` makes every call fail."""

    clock: Clock = field(default_factory=FakeClock)
    down: bool = False
    rows: dict[tuple[str, int], Spend] = field(default_factory=dict)

    async def open(self, openings: Sequence[Opening]) -> Sequence[Opened | Bought]:
        self._reach()
        return [self._open(one) for one in openings]

    async def close(self, closings: Sequence[Closing]) -> None:
        self._reach()
        for one in closings:
            row = self.rows[one.spender, one.ordinal]
            row.vectors = one.vectors
            if row.state == "open" and one.event is None:
                del self.rows[one.spender, one.ordinal]
            elif row.state == "open":
                row.state, row.event, row.due_at = "closed", one.event, self.clock.now()

    async def take(self, lane: str, *, limit: int, hold_s: float) -> Sequence[Untold]:
        self._reach()
        now = self.clock.now()
        due = [
            (key, row)
            for key, row in self.rows.items()
            if row.opening.lane == lane and not row.told and row.due_at <= now
        ]
        found = []
        for (spender, ordinal), row in due[:limit]:
            row.state = "lost" if row.state == "open" else row.state
            row.due_at = now + timedelta(seconds=hold_s)
            assert row.event is not None
            found.append(Untold(spender=spender, ordinal=ordinal, event=row.event))
        return found

    async def told(self, untold: Sequence[Untold]) -> None:
        self._reach()
        for one in untold:
            self.rows[one.spender, one.ordinal].told = True

    def events(self) -> list[bytes]:
        """The cost events of all attempts, told or not."""
        return [row.event for row in self.rows.values() if row.event is not None]

    def _open(self, opening: Opening) -> Opened | Bought:
        own = {ordinal: row for (spender, ordinal), row in self.rows.items() if spender == opening.spender}
        for row in own.values():
            if row.vectors is not None and row.opening.asked == opening.asked:
                return Bought(row.vectors)
        ordinal = max(own, default=-1) + 1
        due_at = self.clock.now() + timedelta(seconds=opening.due_s)
        self.rows[opening.spender, ordinal] = Spend(replace(opening), opening.event(ordinal), due_at)
        return Opened(ordinal)

    def _reach(self) -> None:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")
