"""The journal in Postgres: tables ``calls`` and ``attempts``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from processors.journal import sql
from processors.journal.entry import (
    NONE,
    AttemptRow,
    Busy,
    CallFailure,
    CallKey,
    CallRow,
    Claim,
    Done,
    Ended,
    Expired,
    Granted,
    Lease,
    Offer,
    Settled,
    Target,
)
from processors.journal.finishing import Finishing
from processors.journal.granting import Granting
from processors.journal.protocol import (
    End,
    Take,
    closed,
    decide,
    is_repeated,
    lose,
    open_attempts,
    settled_late,
    stored,
    unheard,
)
from processors.journal.recent import Recent
from processors.journal.row import (
    attempt_from,
    attempt_from_columns,
    call_from,
    failure_as_json,
    key_parameters,
    opening_parameters,
    saving_parameters,
)
from processors.journal.served import INSERT_SERVED, SERVE_CALL
from processors.postgres import Connection, Database
from schemas.errors import FencedError

_CALL_WIDTH = len(sql.CALL_COLUMNS.split(","))


class _Taken(NamedTuple):
    """A locked call that may be granted, or served by another's result."""

    call: CallRow
    attempts: tuple[AttemptRow, ...]
    take: Take


class PostgresJournal:
    """A ``Journal`` that every worker shares. Leases are measured by the database's clock."""

    def __init__(self, database: Database, *, lease_s: float = 15.0) -> None:
        self._database = database
        self.lease_s = lease_s
        self._granting, self._finishing = Granting(database, lease_s=lease_s), Finishing(database)
        self._recent = Recent()

    async def claim(self, offer: Offer, *, owner: str) -> Claim:
        new = await self._granting.grant(offer, owner=owner)
        if new is not None:
            self._recent.granted(new)
            return new
        async with self._database.transaction() as connection:
            taken = await self._decide(connection, offer)
            if not isinstance(taken, _Taken):
                return taken
            return await self._take(connection, taken.call, offer, taken.take, earlier=taken.attempts, owner=owner)

    async def serve(self, offer: Offer, make: Callable[[tuple[AttemptRow, ...]], bytes]) -> Claim:
        result = make(())
        rows = await self._database.execute(INSERT_SERVED, {**_offered(offer), "result": result})
        if rows:
            return Done(result=result, attempts=(), input=offer.input, input_hash=offer.input_hash, ended_at=rows[0][0])
        async with self._database.transaction() as connection:
            taken = await self._decide(connection, offer)
            if not isinstance(taken, _Taken):
                return taken
            parameters = {"call_id": offer.key.call_id, "epoch": taken.take.epoch, "result": make(taken.attempts)}
            await connection.execute(SERVE_CALL, parameters)
            # Read back, because a redelivery has to see the same.
            row = await (await connection.execute(sql.SELECT_CALL, (offer.key.call_id,))).fetchone()
            assert row is not None
            served = stored(call_from(offer.key, row), taken.attempts)
            assert served is not None
            return served

    async def finish(
        self,
        lease: Lease,
        attempt_id: str,
        settled: Settled,
        result: bytes,
        *,
        others: Mapping[str, Settled] = NONE,
    ) -> tuple[AttemptRow, ...]:
        rows = None if others else await self._finishing.finish(lease, attempt_id, settled, result)
        if rows is not None:
            self._recent.finished(lease, rows, result)
            return rows
        self._recent.forget(lease.key)
        async with self._database.transaction() as connection:
            parameters = {"call_id": lease.key.call_id, "epoch": lease.epoch, "result": result}
            cursor = await connection.execute(sql.FINISH_CALL, parameters)
            written = await cursor.fetchone()
            if written is not None:
                rows = await self._attempts(connection, lease.key)
                return await self._save(connection, *closed(rows, {**others, attempt_id: settled}, written[0]))
            repeated = await self._repeated_or_late(connection, lease, attempt_id, settled, others)
        return _or_fenced(lease, repeated)

    async def fail_attempt(
        self,
        lease: Lease,
        attempt_id: str,
        settled: Settled,
        failure: CallFailure | None = None,
        *,
        others: Mapping[str, Settled] = NONE,
        keep: bytes | None = None,
    ) -> tuple[AttemptRow, ...]:
        self._recent.forget(lease.key)
        async with self._database.transaction() as connection:
            call, now = await self._lock(connection, lease.key)
            if _holds(call, lease):
                if keep is not None:
                    await connection.execute(sql.KEEP, {"call_id": lease.key.call_id, "kept": keep})
                rows = await self._attempts(connection, lease.key)
                rows = await self._save(connection, *closed(rows, {**others, attempt_id: settled}, now))
                if failure is not None:
                    await self._end(connection, call, failure, rows, now)
                return rows
            repeated = await self._repeated_or_late(connection, lease, attempt_id, settled, others)
        return _or_fenced(lease, repeated)

    async def end(self, lease: Lease, failure: CallFailure) -> None:
        self._recent.forget(lease.key)
        async with self._database.transaction() as connection:
            call, now = await self._lock(connection, lease.key)
            if not _holds(call, lease):
                raise _fenced(lease)
            await self._end(connection, call, failure, (), now)

    async def next_attempt(self, lease: Lease, target: Target, *, beside: str | None = None) -> AttemptRow:
        async with self._database.transaction() as connection:
            parameters = {"call_id": lease.key.call_id, "epoch": lease.epoch, "lease_s": self.lease_s}
            cursor = await connection.execute(sql.EXTEND_LEASE, parameters)
            if await cursor.fetchone() is None:
                raise _fenced(lease)
            rows = await self._attempts(connection, lease.key)
            return unheard(rows, beside) or await self._open(connection, lease, target, len(rows))

    async def renew(self, owner: str, leases: Collection[Lease]) -> frozenset[Lease]:
        by_id = {lease.key.call_id: lease for lease in leases}
        parameters = {
            "call_ids": list(by_id),
            "epochs": [lease.epoch for lease in by_id.values()],
            "owner": owner,
            "lease_s": self.lease_s,
        }
        async with self._database.transaction() as connection:
            cursor = await connection.execute(sql.RENEW, parameters)
            return frozenset(by_id[str(row[0])] for row in await cursor.fetchall())

    async def attempts_of(self, key: CallKey) -> tuple[AttemptRow, ...]:
        async with self._database.transaction() as connection:
            return await self._attempts(connection, key)

    async def outcome_of(self, key: CallKey) -> Done | Ended | None:
        known = self._recent.take(key)
        if known is not None:
            return known
        rows = await self._database.execute(sql.SELECT_OUTCOME, (key.call_id,))
        found = [row[_CALL_WIDTH:] for row in rows]
        attempts = tuple(attempt_from_columns(columns) for columns in found if columns[0] is not None)
        return stored(call_from(key, rows[0]), attempts) if rows else None

    async def kept(self, key: CallKey) -> bytes | None:
        rows = await self._database.execute(sql.SELECT_KEPT, (key.call_id,))
        return bytes(rows[0][0]) if rows else None

    async def earlier_result(self, key: CallKey, input_hash: str) -> Done | None:
        async with self._database.transaction() as connection:
            parameters = {**key_parameters(key), "input_hash": input_hash}
            row = await (await connection.execute(sql.EARLIER_RESULT, parameters)).fetchone()
            if row is None:
                return None
            earlier = replace(key, run=row[-1])
            known = stored(call_from(earlier, row), await self._attempts(connection, earlier))
            return known if isinstance(known, Done) else None

    async def _decide(self, connection: Connection, offer: Offer) -> _Taken | Done | Ended | Busy | Expired:
        """Lock the call and say what becomes of it; where it may be taken, its open attempt is booked as lost."""
        locked = await self._insert_or_lock(connection, offer)
        if locked is None:
            return Expired()
        call, now = locked
        # A call that was never granted, as a new one, has no attempts.
        rows = await self._attempts(connection, offer.key) if call.epoch else ()
        decision = decide(call, rows, offer, now)
        if isinstance(decision, Done | Ended | Busy):
            return decision
        rows = await self._lose_open(connection, rows, now)
        if isinstance(decision, End):
            return await self._end(connection, call, decision.failure, rows, now)
        return _Taken(call, rows, decision)

    async def _insert_or_lock(self, connection: Connection, offer: Offer) -> tuple[CallRow, datetime] | None:
        row = await (await connection.execute(sql.INSERT_CALL, _offered(offer))).fetchone()
        if row is None:
            row = await (await connection.execute(sql.LOCK_CALL, (offer.key.call_id,))).fetchone()
        return None if row is None else (call_from(offer.key, row), row[-1])

    async def _lock(self, connection: Connection, key: CallKey) -> tuple[CallRow, datetime]:
        row = await (await connection.execute(sql.LOCK_CALL, (key.call_id,))).fetchone()
        if row is None:
            raise FencedError(f"call {key.call_id} is no longer in the journal")
        return call_from(key, row), row[-1]

    async def _attempts(self, connection: Connection, key: CallKey) -> tuple[AttemptRow, ...]:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql.SELECT_ATTEMPTS, (key.call_id,))
            return tuple(attempt_from(row) for row in await cursor.fetchall())

    async def _take(
        self,
        connection: Connection,
        call: CallRow,
        offer: Offer,
        take: Take,
        *,
        earlier: tuple[AttemptRow, ...],
        owner: str,
    ) -> Granted:
        lease = Lease(key=offer.key, owner=owner, epoch=take.epoch)
        parameters = {"call_id": offer.key.call_id, "owner": owner, "epoch": take.epoch, "lease_s": self.lease_s}
        await connection.execute(sql.TAKE_CALL, parameters)
        attempt = await self._open(connection, lease, offer.target, take.ordinal)
        return Granted(
            lease=lease,
            attempt=attempt,
            earlier=earlier,
            input=call.input,
            input_hash=call.input_hash,
            kept=call.kept,
            over=take.over,
        )

    async def _open(self, connection: Connection, lease: Lease, target: Target, ordinal: int) -> AttemptRow:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql.OPEN_ATTEMPT, opening_parameters(lease, target, ordinal))
            row = await cursor.fetchone()
            assert row is not None
            return attempt_from(row)

    async def _lose_open(
        self, connection: Connection, rows: tuple[AttemptRow, ...], now: datetime
    ) -> tuple[AttemptRow, ...]:
        lost = {row.attempt_id: lose(row, now) for row in open_attempts(rows)}
        rows = tuple(lost.get(row.attempt_id, row) for row in rows)
        return await self._save(connection, rows, tuple(lost.values()))

    async def _save(
        self, connection: Connection, rows: tuple[AttemptRow, ...], changed: Sequence[AttemptRow]
    ) -> tuple[AttemptRow, ...]:
        """Write those of the rows that changed; returns all."""
        for row in changed:
            await connection.execute(sql.SAVE_ATTEMPT, saving_parameters(row))
        return rows

    async def _end(
        self,
        connection: Connection,
        call: CallRow,
        failure: CallFailure,
        rows: tuple[AttemptRow, ...],
        now: datetime,
    ) -> Ended:
        state = "unknown" if failure.kind == "indeterminate" else "failed"
        parameters = {
            "call_id": call.key.call_id,
            "state": state,
            "failure": Jsonb(failure_as_json(failure)),
            "now": now,
        }
        await connection.execute(sql.END_CALL, parameters)
        return Ended(failure=failure, attempts=rows, input=call.input, input_hash=call.input_hash, ended_at=now)

    async def _repeated_or_late(
        self,
        connection: Connection,
        lease: Lease,
        attempt_id: str,
        settled: Settled,
        others: Mapping[str, Settled],
    ) -> tuple[AttemptRow, ...] | None:
        """All attempts when this very outcome was booked before; else book it as late, and ``None``."""
        call, now = await self._lock(connection, lease.key)
        rows = await self._attempts(connection, lease.key)
        if is_repeated(call, rows, lease, attempt_id, settled):
            return rows
        await self._save(connection, *settled_late(rows, {**others, attempt_id: settled}, now))
        return None


def _offered(offer: Offer) -> dict[str, Any]:
    """The columns of a new call."""
    return {
        **key_parameters(offer.key),
        "input_hash": offer.input_hash,
        "input": offer.input,
        "expired": offer.expired or offer.cancelled or offer.refused is not None,
        "expires_at": offer.expires_at,
    }


def _holds(call: CallRow, lease: Lease) -> bool:
    return call.state == "calling" and call.epoch == lease.epoch


def _fenced(lease: Lease) -> FencedError:
    return FencedError(f"call {lease.key.call_id} has a later owner than epoch {lease.epoch}")


def _or_fenced(lease: Lease, rows: tuple[AttemptRow, ...] | None) -> tuple[AttemptRow, ...]:
    """The rows, or ``FencedError``; raised outside the transaction, which has to be committed with the late outcome."""
    if rows is None:
        raise _fenced(lease)
    return rows
