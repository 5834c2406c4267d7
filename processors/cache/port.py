"""What the caches ask of their store: which call answers a request, and which question is nearest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from processors.embeddings import Vector
from processors.journal.entry import CallKey

# Failures of a call that say nothing about the calls of others who ask the same.
OWN_FAILURES = ("cancelled", "expired", "budget_exceeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A request that wants an answer. ``fresh_after``: a result from before that time does not do.

    ``lease_s``: for how long the call may be about to begin, before somebody else makes it.
    """

    key: bytes
    call: CallKey
    route: str
    fresh_after: datetime
    lease_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A call that answers it: the bytes of its completion, and when it was booked."""

    result: bytes
    at: datetime


@dataclass(frozen=True, slots=True)
class Taken:
    """The call is for this request to make; identical ones wait for it."""


@dataclass(frozen=True, slots=True)
class Own:
    """The request's own call has ended: the journal has what became of it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The call ``call_id`` is open, or about to begin, for this much longer unless that is renewed.

    ``batched``: it goes by batch, and may take a day.
    """

    call_id: str
    remaining_s: float
    batched: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The call that was waited for ended without a result, and those of others may too."""


@dataclass(frozen=True, slots=True)
class Free:
    """Nobody makes the call, or whoever did is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """The nearest question that has an answer. ``similarity`` is the cosine, -1 to 1."""

    found: Found
    similarity: float


class CacheStore(Protocol):
    """Shared by all workers. Every method is one transaction, most of them one statement.

    Raises ``DependencyDownError`` while the store is away.
    """

    async def join(self, wish: Wish) -> Found | Taken | Own | Waiting:
        """Take the call for this request, unless one that does is there, open or about to begin."""
        ...

    async def look(self, wish: Wish, call_id: str) -> Found | Waiting | Failed | Free:
        """What has become of the call that is waited for. Takes no lock."""
        ...

    async def leave(self, wish: Wish) -> None:
        """Give back what ``join`` took: the request makes no call."""
        ...

    async def nearest(self, wish: Wish, scope: bytes, vector: Vector) -> Near | None:
        """The nearest question of the scope that has a fresh answer; remembers this one beside its entry."""
        ...
