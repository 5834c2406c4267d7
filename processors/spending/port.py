"""Where attempts at the embedding endpoint are booked, and a book in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from processors.clock import Clock, FakeClock
from schemas.errors import DependencyDownError

# Of a text, with the model that makes its vector: sha256.
DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """An attempt that is about to be sent. ``event`` makes its cost event at the upper bound, from its number.

    ``asked`` has the digests of the texts that it wants, one after the other, and ``owed`` those of them that it would
    pay for; ``due_s``: after so many seconds without an outcome that event is published. ``asker`` is the id of the
    event for which it asks, ``bound_usd`` the amount of its cost event at the upper bound.
    """

    spender: str
    lane: str
    tenant: str
    asked: bytes
    owed: bytes
    event: Callable[[int], bytes]
    due_s: float
    asker: str = ""
    bound_usd: Decimal = Decimal(0)


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
    """What became of an attempt: its cost event with its amount, and the vectors to be kept.

    No event: nothing was spent.
    """

    spender: str
    ordinal: int
    event: bytes | None = None
    vectors: bytes | None = None
    amount_usd: Decimal = Decimal(0)


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

    async def kept(self, spenders: Sequence[str]) -> Mapping[str, tuple[Kept, ...]]:
        """The vectors that are kept for these spenders; one that has none is left out."""
        ...

    async def abandon(self, lane: str) -> None:
        """Have the lane's open attempts told at once, because whoever sent them is gone."""
        ...

    async def spent(self, lane: str) -> Decimal:
        """What the attempts of a replay's lane came to in US dollars; those without an outcome at their bounds."""
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
    amount_usd: Decimal = Decimal(0)


def _kept(rows: Mapping[int, Spend]) -> Iterator[Kept]:
    return (Kept(row.asked, row.vectors) for row in rows.values() if row.vectors is not None)


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
                row.amount_usd = one.amount_usd

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

    async def kept(self, spenders: Sequence[str]) -> Mapping[str, tuple[Kept, ...]]:
        self._reach()
        found = {one: tuple(_kept(self._own(one))) for one in spenders}
        return {spender: kept for spender, kept in found.items() if kept}

    async def abandon(self, lane: str) -> None:
        self._reach()
        for row in self.rows.values():
            if row.lane == lane and row.state == "open":
                row.due_at = self.clock.now()

    async def spent(self, lane: str) -> Decimal:
        self._reach()
        return sum((row.amount_usd for row in self.rows.values() if row.lane == lane), Decimal(0))

    def events(self) -> list[bytes]:
        """The cost events of all attempts, told or not."""
        return [row.event for row in self.rows.values() if row.event is not None]

    def _open(self, opening: Opening) -> Opened | Bought:
        own = self._own(opening.spender)
        kept = tuple(_kept(own))
        if kept and covers(kept, opening.owed):
            return Bought(kept)
        ordinal = max(own, default=-1) + 1
        due_at = self.clock.now() + timedelta(seconds=opening.due_s)
        row = Spend(opening.lane, opening.asked, opening.event(ordinal), due_at, amount_usd=opening.bound_usd)
        self.rows[opening.spender, ordinal] = row
        return Opened(ordinal, kept)

    def _own(self, spender: str) -> dict[int, Spend]:
        return {ordinal: row for (whose, ordinal), row in sorted(self.rows.items()) if whose == spender}

    def _reach(self) -> None:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")
