"""The calls of a batch in the journal: which are its own, and handing one on to whoever makes use of its reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

from psycopg.rows import dict_row

from processors.batchapi.entry import Claimed, Item, owner_of
from processors.journal import Busy, Granted, Lease, MemoryJournal
from processors.journal.row import attempt_from
from processors.journal.sql import SELECT_ATTEMPTS
from processors.postgres import Database

HELD = """
SELECT c.call_id, a.attempt_id, c.lease_epoch, c.input
FROM calls AS c JOIN attempts AS a ON a.call_id = c.call_id AND a.state = 'calling'
WHERE c.call_id = ANY(%(calls)s::uuid[]) AND c.state = 'calling' AND c.lease_owner = %(owner)s
"""

# Its attempt is open, and nobody else is at work on it: its batch had it, or somebody who is gone.
ADOPT = """
UPDATE calls SET lease_owner = %(owner)s, lease_epoch = lease_epoch + 1, updated_at = clock_timestamp(),
    lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE call_id = %(call_id)s AND state = 'calling'
  AND (lease_owner = %(batch)s OR lease_until <= clock_timestamp())
  AND EXISTS (SELECT FROM attempts WHERE attempt_id = %(attempt_id)s AND state = 'calling')
RETURNING lease_epoch, input, input_hash
"""

LEFT = """
SELECT extract(epoch FROM c.lease_until - clock_timestamp())::double precision
FROM calls AS c JOIN attempts AS a ON a.call_id = c.call_id
WHERE c.call_id = %(call_id)s AND c.state = 'calling' AND a.attempt_id = %(attempt_id)s AND a.state = 'calling'
"""

RELEASE = """
UPDATE calls SET lease_until = clock_timestamp()
WHERE call_id = ANY(%(calls)s::uuid[]) AND state = 'calling' AND lease_owner = %(owner)s
"""


class BatchCalls(Protocol):
    """Blocks on the journal's storage, and raises ``DependencyDownError`` when it is away."""

    async def held(self, batch_id: str, call_ids: Sequence[str]) -> Sequence[Claimed]:
        """Those of the calls that the batch has claimed and that are open."""
        ...

    async def adopt(self, item: Item, *, owner: str) -> Granted | Busy | None:
        """The item's call under a lease of ``owner``, with its open attempt, whose outcome ``owner`` has to book.

        ``None``: that attempt is booked, or there is none. ``Busy``: another worker is at it.
        """
        ...

    async def release(self, batch_id: str, call_ids: Sequence[str]) -> None:
        """Let others have the batch's calls at once; their attempts are booked."""
        ...


class PostgresBatchCalls:
    """``BatchCalls`` on the tables of the journal."""

    def __init__(self, database: Database, *, lease_s: float = 15.0) -> None:
        self._database, self._lease_s = database, lease_s

    async def held(self, batch_id: str, call_ids: Sequence[str]) -> Sequence[Claimed]:
        rows = await self._database.execute(HELD, {"calls": list(call_ids), "owner": owner_of(batch_id)})
        return [Claimed(str(call), str(attempt), epoch, bytes(data)) for call, attempt, epoch, data in rows]

    async def adopt(self, item: Item, *, owner: str) -> Granted | Busy | None:
        parameters = {
            "call_id": item.call_id,
            "attempt_id": item.attempt_id,
            "owner": owner,
            "batch": owner_of(item.batch_id or ""),
            "lease_s": self._lease_s,
        }
        async with self._database.transaction() as connection:
            row = await (await connection.execute(ADOPT, parameters)).fetchone()
            if row is None:
                left = await (await connection.execute(LEFT, parameters)).fetchone()
                return None if left is None else Busy(max(0.0, left[0]))
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(SELECT_ATTEMPTS, (item.call_id,))
                attempts = tuple(attempt_from(one) for one in await cursor.fetchall())
        epoch, data, input_hash = row
        place = next(n for n, one in enumerate(attempts) if one.attempt_id == item.attempt_id)
        return Granted(
            lease=Lease(key=item.key, owner=owner, epoch=epoch),
            attempt=attempts[place],
            earlier=attempts[:place],
            input=bytes(data),
            input_hash=input_hash,
        )

    async def release(self, batch_id: str, call_ids: Sequence[str]) -> None:
        await self._database.execute(RELEASE, {"calls": list(call_ids), "owner": owner_of(batch_id)})


class MemoryBatchCalls:
    """``BatchCalls`` on a journal in memory."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal

    async def held(self, batch_id: str, call_ids: Sequence[str]) -> Sequence[Claimed]:
        found = []
        for call_id in call_ids:
            call = self._journal.calls.get(call_id)
            if call is not None and call.state == "calling" and call.owner == owner_of(batch_id):
                opened = [row for row in self._journal.attempts[call_id] if row.state == "calling"]
                found += [Claimed(call_id, row.attempt_id, call.epoch, call.input) for row in opened]
        return found

    async def adopt(self, item: Item, *, owner: str) -> Granted | Busy | None:
        journal, now = self._journal, self._journal.clock.now()
        call = journal.calls.get(item.call_id)
        rows = journal.attempts.get(item.call_id, [])
        place = next((n for n, row in enumerate(rows) if row.attempt_id == item.attempt_id), None)
        if call is None or call.state != "calling" or place is None or rows[place].state != "calling":
            return None
        until = call.lease_until or now
        if call.owner != owner_of(item.batch_id or "") and until > now:
            return Busy((until - now).total_seconds())
        lease_until = now + timedelta(seconds=15.0)
        call = replace(call, owner=owner, epoch=call.epoch + 1, lease_until=lease_until)
        journal.calls[item.call_id] = call
        return Granted(
            lease=Lease(key=item.key, owner=owner, epoch=call.epoch),
            attempt=rows[place],
            earlier=tuple(rows[:place]),
            input=call.input,
            input_hash=call.input_hash,
        )

    async def release(self, batch_id: str, call_ids: Sequence[str]) -> None:
        for call_id in call_ids:
            call = self._journal.calls[call_id]
            if call.owner == owner_of(batch_id):
                self._journal.calls[call_id] = replace(call, lease_until=self._journal.clock.now())


def lease_of(item: Item) -> Lease:
    """The lease under which the item's batch claimed its call."""
    assert item.batch_id is not None
    return Lease(key=item.key, owner=owner_of(item.batch_id), epoch=item.epoch)
