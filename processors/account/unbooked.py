"""What the journal has paid in a lane and the ledger lacks, and the calls there that nobody has ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from processors.account.ledger import FakeLedger
from processors.journal import AttemptRow, CallKey, MemoryJournal, sql
from processors.journal.row import attempt_from
from processors.postgres import Database


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call without an outcome."""

    key: CallKey
    input_hash: str
    input: bytes


@dataclass(frozen=True, slots=True)
class Unbooked:
    """An attempt that has ended and is not in the ledger; ``input`` is its call's, as the journal has it."""

    key: CallKey
    row: AttemptRow
    input: bytes


class Books(Protocol):
    """Journal beside ledger. Every method is one statement; raises ``DependencyDownError``. Takes no lock."""

    async def open_calls(self, lane: str) -> Sequence[OpenCall]:
        """The lane's calls that are neither done nor failed, whoever has them."""
        ...

    async def unbooked(
        self, lane: str, *, since: datetime, until: datetime, after: str, limit: int
    ) -> Sequence[Unbooked]:
        """Of calls begun from ``since`` on and before ``until``, in the order of their ids, those behind ``after``.

        It looks at every call of that time, whatever its lane: ask for an hour or so. ``after`` empty: the first ones.
        """
        ...

    async def booked(self, attempt_ids: Collection[str]) -> frozenset[str]:
        """Those of the attempts that the ledger has."""
        ...


class PostgresBooks:
    """``Books`` in the tables of journal and ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open_calls(self, lane: str) -> Sequence[OpenCall]:
        rows = await self._database.execute(_OPEN, {"lane": lane})
        return [OpenCall(_key(lane, key), input_hash, data) for *key, input_hash, data in rows]

    async def unbooked(
        self, lane: str, *, since: datetime, until: datetime, after: str, limit: int
    ) -> Sequence[Unbooked]:
        parameters = {"lane": lane, "since": since, "until": until, "after": after or _BEFORE_ALL, "limit": limit}
        found, names = [], sql.ATTEMPT_NAMES
        for tenant, run, request_id, purpose, ordinal, data, *values in await self._database.execute(
            _UNBOOKED, parameters
        ):
            row = attempt_from(dict(zip(names, values, strict=True)))
            found.append(Unbooked(_key(lane, (tenant, run, request_id, purpose, ordinal)), row, data))
        return found

    async def booked(self, attempt_ids: Collection[str]) -> frozenset[str]:
        if not attempt_ids:
            return frozenset()
        return frozenset(row[0] for row in await self._database.execute(_BOOKED, {"ids": list(attempt_ids)}))


def _key(lane: str, columns: Sequence[object]) -> CallKey:
    tenant, run, request_id, purpose, ordinal = columns
    return CallKey(
        tenant=str(tenant),
        lane=lane,
        run=str(run),
        request_id=str(request_id),
        purpose=str(purpose),
        ordinal=int(str(ordinal)),
    )


class FakeBooks:
    """A journal and a ledger in memory, side by side."""

    def __init__(self, journal: MemoryJournal, ledger: FakeLedger) -> None:
        self._journal, self._ledger = journal, ledger

    async def open_calls(self, lane: str) -> Sequence[OpenCall]:
        calls = [call for call in self._journal.calls.values() if call.key.lane == lane]
        return [OpenCall(call.key, call.input_hash, call.input) for call in calls if call.state == "calling"]

    async def unbooked(
        self, lane: str, *, since: datetime, until: datetime, after: str, limit: int
    ) -> Sequence[Unbooked]:
        found = [
            Unbooked(call.key, row, call.input)
            for call_id, call in self._journal.calls.items()
            for row in self._journal.attempts[call_id]
            if call.key.lane == lane and row.state != "calling" and since <= row.started_at < until
        ]
        new = [one for one in found if one.row.attempt_id not in self._ledger.rows and one.row.attempt_id > after]
        return sorted(new, key=lambda one: one.row.attempt_id)[:limit]

    async def booked(self, attempt_ids: Collection[str]) -> frozenset[str]:
        return frozenset(self._ledger.rows).intersection(attempt_ids)


_BEFORE_ALL = "00000000-0000-0000-0000-000000000000"
_OPEN = """
SELECT tenant, run, request_id, purpose, ordinal, input_hash, input FROM calls
WHERE lane = %(lane)s AND state = 'calling' ORDER BY call_id
"""
# By the index of when calls were begun.
_UNBOOKED = f"""
SELECT c.tenant, c.run, c.request_id, c.purpose, c.ordinal, c.input, {", ".join(f"a.{n}" for n in sql.ATTEMPT_NAMES)}
FROM calls AS c JOIN attempts AS a USING (call_id)
WHERE c.created_at >= %(since)s AND c.created_at < %(until)s AND c.lane = %(lane)s
  AND a.state <> 'calling' AND a.attempt_id > %(after)s::uuid
  AND NOT EXISTS (SELECT FROM ledger WHERE ledger.attempt_id = a.attempt_id::text)
ORDER BY a.attempt_id LIMIT %(limit)s
"""
_BOOKED = "SELECT attempt_id FROM ledger WHERE attempt_id = ANY(%(ids)s)"
