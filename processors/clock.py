"""The database's clock: the only one that decisions about age and expiry use."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time without blocking."""

    def now(self) -> datetime:
        """Now, in UTC, by the database."""
        ...


class DatabaseClock:
    """Postgres ``now()`` as last fetched, carried on by the monotonic clock. Call ``set`` about every 10 s."""

    def __init__(self) -> None:
        self._fetched: datetime | None = None
        self._monotonic = 0.0

    def set(self, fetched: datetime) -> None:
        """Take the database's time as of this moment."""
        self._fetched, self._monotonic = fetched.astimezone(UTC), time.monotonic()

    def now(self) -> datetime:
        """Now by the database; an error before the first fetch, so that no wall clock slips in."""
        if self._fetched is None:
            raise RuntimeError("the database clock was not fetched yet; start the worker's clock service first")
        return self._fetched + timedelta(seconds=time.monotonic() - self._monotonic)


class FakeClock:
    """A clock that a test sets."""

    def __init__(self, start: datetime | None = None) -> None:
        self.current = start or datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.current

    def advance(self, seconds: float) -> None:
        self.current += timedelta(seconds=seconds)
