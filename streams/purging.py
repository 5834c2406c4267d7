"""Deleting the rows whose time is over: small batches, one process at a time, and never a row that is locked."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, LiteralString

import structlog
from psycopg import sql

from processors.postgres import Database
from schemas.errors import DependencyDownError
from streams.retention import FOREVER, TABLES, Retention, Table

# Any constant will do, as long as every release uses the same. Held for one batch at a time.
ADVISORY_LOCK = 0x68725075
# After a start, so that many workers that start together do not purge together; the interval where it is shorter.
FIRST_WITHIN_S = 300.0
# Between two batches: autovacuum, replicas and everybody else get their turn.
PAUSE_S = 0.02

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What was done to one table. ``rows`` were deleted, or would be; ``oldest`` is the oldest of them."""

    table: str
    days: float
    before: datetime | None
    rows: int = 0
    oldest: datetime | None = None
    # done, kept (for ever), missing (the migration is not applied), busy (another process is at it).
    outcome: str = "done"


class Purge:
    """One pass over all tables. Times are the database's."""

    def __init__(
        self, database: Database, retention: Retention, *, batch: int = 1000, tables: Sequence[Table] = TABLES
    ) -> None:
        self._database, self._retention, self._batch, self._tables = database, retention, batch, tables

    async def run(
        self, *, dry_run: bool = False, wait: bool = False, advance: Callable[[Purged], None] = lambda _: None
    ) -> AsyncIterator[Purged]:
        """Purge table by table, and say of each what was done; ``advance`` hears of every batch.

        Blocks on Postgres, for a lock of another process only with ``wait``. A batch is a transaction of its own, so
        what is cut off is done in part and goes on next time. Raises ``DependencyDownError``.
        """
        now = await self._database.now()
        for table in self._tables:
            yield await self._table(table, now, dry_run=dry_run, wait=wait, advance=advance)

    async def _table(
        self, table: Table, now: datetime, *, dry_run: bool, wait: bool, advance: Callable[[Purged], None]
    ) -> Purged:
        days = self._retention.tables[table.name]
        if days == FOREVER:
            return Purged(table=table.name, days=days, before=None, outcome="kept")
        purged = Purged(table=table.name, days=days, before=now - timedelta(days=days))
        if (await self._database.execute("SELECT to_regclass(%s) IS NULL", (table.name,)))[0][0]:
            return replace(purged, outcome="missing")
        if dry_run:
            [(rows, oldest)] = await self._execute(_COUNT, table, purged)
            return replace(purged, rows=rows, oldest=oldest)
        while True:
            taken, rows, oldest = await self._delete(table, purged, wait=wait)
            if not taken:
                return replace(purged, outcome="busy")
            purged = replace(purged, rows=purged.rows + rows, oldest=purged.oldest or oldest)
            advance(replace(purged, rows=rows))
            if rows < self._batch:
                return purged
            await asyncio.sleep(PAUSE_S)

    async def _delete(self, table: Table, purged: Purged, *, wait: bool) -> tuple[bool, int, datetime | None]:
        """One batch: whether the lock was ours, how many rows went, and the oldest of them."""

        async def work(connection: Any) -> tuple[bool, int, datetime | None]:
            lock = "SELECT pg_advisory_xact_lock(%s) IS NOT NULL" if wait else "SELECT pg_try_advisory_xact_lock(%s)"
            cursor = await connection.execute(lock, (ADVISORY_LOCK,))
            if not (await cursor.fetchone())[0]:
                return False, 0, None
            cursor = await connection.execute(_statement(_DELETE, table), self._parameters(purged))
            rows, oldest = await cursor.fetchone()
            return True, rows, oldest

        return await self._database.run(work)

    async def _execute(self, template: LiteralString, table: Table, purged: Purged) -> list[tuple[Any, ...]]:
        async with self._database.transaction() as connection:
            cursor = await connection.execute(_statement(template, table), self._parameters(purged))
            return await cursor.fetchall()

    def _parameters(self, purged: Purged) -> dict[str, Any]:
        return {"before": purged.before, "batch": self._batch}


class Purger:
    """Purges in the background of a worker, for as long as it runs."""

    def __init__(
        self,
        purge: Purge,
        *,
        interval_s: float,
        on_purged: Callable[[str, int], None],
        on_down: Callable[[DependencyDownError], object],
    ) -> None:
        self._purge, self._interval_s = purge, interval_s
        self._on_purged, self._on_down = on_purged, on_down

    async def run(self) -> None:
        """Purge at every interval, by chance a little earlier or later. A failed pass is told and tried again."""
        pause_s = random.uniform(0, min(FIRST_WITHIN_S, self._interval_s))
        while True:
            await asyncio.sleep(pause_s)
            await self._pass()
            pause_s = self._interval_s * random.uniform(0.9, 1.1)

    async def _pass(self) -> None:
        try:
            async for done in self._purge.run(advance=lambda batch: self._on_purged(batch.table, batch.rows)):
                if done.rows:
                    log.info("purged", table=done.table, rows=done.rows, before=str(done.before))
        except DependencyDownError as error:
            self._on_down(error)
        except Exception as error:
            # A table that can't be purged is no reason to stop answering: it grows, and this line says so.
            log.error("purging failed and will be tried again", error=type(error).__name__)


def _statement(template: LiteralString, table: Table) -> sql.Composed:
    return sql.SQL(template).format(
        table=sql.Identifier(table.name), column=sql.Identifier(table.column), where=sql.SQL(table.where)
    )


_COUNT: LiteralString = "SELECT count(*), min({column}) FROM {table} WHERE {column} < %(before)s AND ({where})"
# What another transaction holds is left for the next pass.
_DELETE: LiteralString = """
    WITH gone AS (
        DELETE FROM {table} WHERE ctid = ANY (ARRAY (
            SELECT ctid FROM {table} WHERE {column} < %(before)s AND ({where})
            ORDER BY {column} LIMIT %(batch)s FOR UPDATE SKIP LOCKED))
        RETURNING {column} AS at)
    SELECT count(*), min(at) FROM gone
"""
