"""Where attempts at the embedding endpoint are booked, and a book in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from processors.clock import Clock, FakeClock
from schemas.errors import DependencyDownError

# Of a text, with the model that makes its vector: sha256.
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """An attempt that is about to be sent. ``event`` makes its cost event at the upper bound, from its number.

    ``asked`` has the digests of the texts that it wants, one after the other, and ``owed`` those of them that it would
    pay for; ``due_s``: after so many seconds without an outcome that event is published.
    """

    spender: str
    lane: str
    tenant: str
    asked: bytes
    owed: bytes
    event: Callable[[int], bytes]
    due_s: float


@dataclass(frozen=True, slots=True)
class Kept:
    """Vectors that an earlier delivery got, one after the other, with the digests of their texts in the same order."""

    asked: bytes
    vectors: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """It is booked under this number, and what is not ``kept`` may be sent."""

    ordinal: int
    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True, slots=True)
class Bought:
    """Earlier deliveries got all that it would pay for. Nothing is to be sent."""

    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """What became of an attempt: its cost event, and the vectors to be kept. No event: nothing was spent."""

    spender: str
    ordinal: int
    event: bytes | None = None
    vectors: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Vectors that another asker paid for, to be kept for this one; it has spent nothing, and nothing is told."""

    spender: str
    lane: str
    tenant: str
    kept: Kept


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

    async def keep(self, keepings: Sequence[Keeping]) -> None:
        """Keep vectors without an attempt; each spender once. Another row of the same texts is not written."""
        ...

    async def take(self, lane: str, *, limit: int, hold_s: float) -> Sequence[Untold]:
        """Cost events to publish, left alone by others for ``hold_s``. One without an outcome is taken for lost."""
        ...

    async def told(self, untold: Sequence[Untold]) -> None:
        """Note that the broker has them."""
        ...


def digests(asked: bytes) -> list[bytes]:
    """The digests that stand one after the other."""
    return [asked[at : at + DIGEST_BYTES] for at in range(0, len(asked), DIGEST_BYTES)]


def covers(kept: Sequence[Kept], owed: bytes) -> bool:
    """Whether nothing is to be sent, because all that is owed is kept."""
    found = {digest for one in kept for digest in digests(one.asked)}
    return found.issuperset(digests(owed))


@dataclass(slots=True)
class Spend:
    """A row of the book in memory."""

    lane: str
    asked: bytes
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

    async def keep(self, keepings: Sequence[Keeping]) -> None:
        self._reach()
        for one in keepings:
            own, kept = self._own(one.spender), one.kept
            if not any(row.asked == kept.asked and row.vectors is not None for row in own.values()):
                row = Spend(one.lane, kept.asked, None, self.clock.now(), "closed", kept.vectors, told=True)
                self.rows[one.spender, max(own, default=-1) + 1] = row

    async def take(self, lane: str, *, limit: int, hold_s: float) -> Sequence[Untold]:
        self._reach()
        now = self.clock.now()
        due = [(key, row) for key, row in self.rows.items() if row.lane == lane and not row.told and row.due_at <= now]
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
        own = self._own(opening.spender)
        kept = tuple(Kept(row.asked, row.vectors) for row in own.values() if row.vectors is not None)
        if kept and covers(kept, opening.owed):
            return Bought(kept)
        ordinal = max(own, default=-1) + 1
        due_at = self.clock.now() + timedelta(seconds=opening.due_s)
        self.rows[opening.spender, ordinal] = Spend(opening.lane, opening.asked, opening.event(ordinal), due_at)
        return Opened(ordinal, kept)

    def _own(self, spender: str) -> dict[int, Spend]:
        return {ordinal: row for (whose, ordinal), row in sorted(self.rows.items()) if whose == spender}

    def _reach(self) -> None:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")
