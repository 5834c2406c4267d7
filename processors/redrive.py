"""Re-drives: dead letters that an operator sent through their stage once more.

An event names the run of its re-drive in a header; the row that the operator's command wrote is what counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from processors.postgres import Database
from schemas.errors import DependencyDownError


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive:
    """One retry of one dead letter. ``value_digest``: sha256 of the event's bytes, as hex; empty for a null value."""

    run: str
    lane: str
    topic: str
    value_digest: str
    # Where the event stood when it failed.
    source_partition: int
    source_offset: int
    first_failed_at: datetime | None
    # Database time at which the retry was begun.
    created_at: datetime


class Redrives(Protocol):
    """Knows the re-drives that operators began."""

    async def find(self, run: str) -> Redrive | None:
        """The re-drive of this run. Waits for one round trip; raises ``DependencyDownError``."""
        ...


class PostgresRedrives:
    """Re-drives in the table ``redrives``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, run: str) -> Redrive | None:
        rows = await self._database.execute(_FIND, {"run": run})
        if not rows:
            return None
        lane, topic, digest, partition, offset, first_failed_at, created_at = rows[0]
        return Redrive(
            run=run,
            lane=lane,
            topic=topic,
            value_digest=digest,
            source_partition=partition,
            source_offset=offset,
            first_failed_at=first_failed_at and first_failed_at.astimezone(UTC),
            created_at=created_at.astimezone(UTC),
        )


_FIND = """
    SELECT lane, topic, value_digest, source_partition, source_offset, first_failed_at, created_at
    FROM redrives WHERE run = %(run)s
"""


class FakeRedrives:
    """Re-drives that a test begins."""

    def __init__(self, *redrives: Redrive) -> None:
        self.known = {redrive.run: redrive for redrive in redrives}
        self.down = False

    async def find(self, run: str) -> Redrive | None:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")
        return self.known.get(run)
