"""Journals whose leases end when a test says so: nothing waits for a clock."""

from __future__ import annotations

from datetime import UTC, datetime

from processors.clock import FakeClock
from processors.journal import CallKey, MemoryJournal, PostgresJournal
from processors.postgres import Database

# Longer than any test takes.
LEASE_S = 600.0
_LAPSE = """
UPDATE calls SET lease_until = clock_timestamp() - interval '1 second' WHERE call_id = %s AND state = 'calling'
"""


class LapsingJournal(PostgresJournal):
    """The journal in Postgres."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, lease_s=LEASE_S)
        self.database = database

    async def lapse(self, key: CallKey) -> None:
        """Let the lease on a call be over, as if its worker had been gone for long."""
        await self.database.execute(_LAPSE, (key.call_id,))


class LapsingMemory(MemoryJournal):
    """The same in memory."""

    def __init__(self) -> None:
        self.time = FakeClock(datetime.now(UTC))
        super().__init__(self.time, lease_s=LEASE_S)

    async def lapse(self, key: CallKey) -> None:
        """Let every lease be over."""
        self.time.advance(LEASE_S + 1)
