"""Token buckets: the arithmetic, and the port of the store that all workers share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from processors.clock import Clock
from schemas.errors import DependencyDownError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So much a minute, and how much of it may be saved up for a burst."""

    per_minute: float
    burst: float

    @property
    def per_s(self) -> float:
        """What a second brings."""
        return self.per_minute / 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What a worker asks of a bucket, in whole units.

    ``wish`` is given as far as it is there. ``must`` is taken even below zero: it belongs to requests that wait until
    it has come in. ``returned`` is what an earlier draw gave and nobody used.
    """

    bucket: str
    rate: Rate
    wish: int = 0
    must: int = 0
    returned: float = 0.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a draw got of its wish, and the level that it found, which is below zero while others wait."""

    granted: float
    available: float


@dataclass(frozen=True, slots=True)
class Level:
    """What a bucket held at a time."""

    level: float
    at: datetime


def take(stored: Level | None, draw: Draw, now: datetime) -> tuple[Level, Drawn]:
    """A bucket after a draw. A bucket that nobody has drawn from is full; time never runs backwards.

    Whatever the order of draws: over any span, what is granted and not returned is at most the burst and what the
    span brings.
    """
    at = now if stored is None else max(stored.at, now)
    elapsed_s = 0.0 if stored is None else (at - stored.at).total_seconds()
    level = draw.rate.burst if stored is None else stored.level + draw.rate.per_s * elapsed_s + draw.returned
    available = min(draw.rate.burst, level)
    granted = max(0.0, min(float(draw.wish), math.floor(available - draw.must)))
    return Level(available - draw.must - granted, at), Drawn(granted, available)


class Buckets(Protocol):
    """The levels that all workers share, refilled by one clock."""

    async def draw(self, draws: Sequence[Draw]) -> Mapping[str, Drawn]:
        """Draw from several buckets at once, each named once. One round trip; raises ``DependencyDownError``.

        It may have taken effect when it raises: what it took is lost then, never given twice.
        """
        ...


class FakeBuckets:
    """Buckets in memory, with the same rules; ``trips`` counts the round trips."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.levels: dict[str, Level] = {}
        self.trips = 0
        self.down = False

    async def draw(self, draws: Sequence[Draw]) -> Mapping[str, Drawn]:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")
        self.trips += 1
        found = {}
        for draw in draws:
            self.levels[draw.bucket], found[draw.bucket] = take(self.levels.get(draw.bucket), draw, self._clock.now())
        return found
