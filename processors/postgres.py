"""Postgres as every adapter uses it: a pool opened once, and one rule for which errors mean "away"."""

from __future__ import annotations

import asyncio
import os
import random
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool

from schemas.errors import DependencyDownError

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]

# SQLSTATE classes and codes that say nothing about the statement: the same one may succeed later.
_AWAY_CLASSES = (
    "08",  # connection exception
    "53",  # insufficient resources: disk full, out of memory, too many connections
    "57",  # operator intervention: shutdown, crash, starting up, cancelled by statement_timeout
    "58",  # system error: I/O
)
_AWAY_STATES = (
    "25006",  # read-only transaction: we reached a standby while the primary changes
    "25P03",  # idle in transaction for too long: the server cut the connection
    "55P03",  # lock_timeout
)
_LACKING = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)
_CONFLICTS = ("40001", "40P01")  # serialization failure, deadlock
_CONFLICT_TRIES = 4  # the first and three more
_POOL_WAIT_S = 5.0
# After this long without a connection the pool gives up and tries anew on the next demand, so that its back-off
# (1 s, doubling) never grows past a second.
_RECONNECT_S = 2.0
_LOCK_WAIT_S = 10


def conflict(error: BaseException) -> bool:
    """Whether the transaction lost against another one: it took no effect and may be run again at once."""
    return isinstance(error, psycopg.Error) and error.sqlstate in _CONFLICTS


def away(error: BaseException) -> bool:
    """Whether the error means that Postgres can't serve now, rather than that the statement is wrong.

    A lost connection has no SQLSTATE; what the server reports has one, and its class decides. A connection that was
    lost at ``COMMIT`` counts too: the outcome is unknown, so what runs in a transaction must bear being repeated.
    """
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        lost = isinstance(error, psycopg.InterfaceError) and "connection" in str(error)
        return lost or isinstance(error, psycopg.OperationalError)
    return error.sqlstate[:2] in _AWAY_CLASSES or error.sqlstate in _AWAY_STATES


def lacking(error: BaseException) -> bool:
    """Whether the database lacks what an operator has to give it: a table, a column or a right."""
    return isinstance(error, _LACKING)


class Database:
    """A pool of connections in autocommit. Open it once per process, on the loop that uses it."""

    def __init__(
        self, pool: AsyncConnectionPool[Connection], *, transaction_timeout_s: float, patient: bool = False
    ) -> None:
        self._pool, self._patient = pool, patient
        self._transaction_timeout_s = transaction_timeout_s

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        min_size: int = 1,
        max_size: int = 8,
        statement_timeout_s: float = 15,
        connect_timeout_s: float = 5,
        application_name: str = "headrace",
        patient: bool = False,
    ) -> Database:
        """Connect and fill the pool. Waits ``connect_timeout_s`` at most; raises ``DependencyDownError``.

        ``patient``: a table, a column or a right that lacks counts as "away", so that events wait for an operator.
        """
        conninfo = _conninfo(dsn, statement_timeout_s, connect_timeout_s, application_name)
        try:
            # The pool would hide why it can't connect behind a timeout of its own.
            await (await psycopg.AsyncConnection.connect(conninfo, autocommit=True)).close()
        except psycopg.OperationalError as error:
            raise DependencyDownError("postgres", _reason(error)) from error
        pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            conninfo,
            min_size=min_size,
            max_size=max_size,
            open=False,
            timeout=_POOL_WAIT_S,
            reconnect_timeout=_RECONNECT_S,
            kwargs={"autocommit": True},
            name=application_name,
        )
        await pool.open()
        return cls(pool, transaction_timeout_s=2 * statement_timeout_s, patient=patient)

    async def close(self) -> None:
        """Close every connection; waits for those in use, a few seconds at most."""
        await self._pool.close(timeout=5)

    @asynccontextmanager
    async def transaction(self, *, timeout_s: float | None = None) -> AsyncIterator[Connection]:
        """A connection in a transaction: committed at the end of the block, rolled back when it raises.

        Waits 5 s at most for a free connection. Raises ``DependencyDownError`` when Postgres is away, is cut off for
        longer than ``timeout_s``, or the transaction lost against another one (use ``run`` to have it tried again).
        """
        async with self._borrowed(timeout_s) as connection, connection.transaction():
            yield connection

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Call ``work`` in a transaction, again up to three times when it ran into a deadlock or another's write.

        ``work`` must have no effect but the transaction's. Raises as ``transaction``.
        """

        async def attempt() -> T:
            async with self._borrowed(None, conflicts=False) as connection, connection.transaction():
                return await work(connection)

        return await _retried(attempt)

    async def execute(
        self, statement: LiteralString, parameters: Sequence[Any] | dict[str, Any] | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own, in one round trip, and return its rows.

        Tried again as ``run`` does; raises as ``transaction``.
        """

        async def attempt() -> list[tuple[Any, ...]]:
            async with self._borrowed(None, conflicts=False) as connection:
                cursor = await connection.execute(statement, parameters, binary=True)
                return await cursor.fetchall() if cursor.description is not None else []

        return await _retried(attempt)

    async def now(self) -> datetime:
        """The database's time, in UTC."""
        rows = await self.execute("SELECT clock_timestamp()")
        moment: datetime = rows[0][0]
        return moment.astimezone(UTC)

    async def ping(self) -> None:
        """One round trip; raises ``DependencyDownError`` when Postgres is away."""
        await self.execute("SELECT 1")

    @asynccontextmanager
    async def _borrowed(self, timeout_s: float | None, *, conflicts: bool = True) -> AsyncIterator[Connection]:
        """A live connection, cut when it is held for too long; errors that mean "away" are translated."""
        try:
            connection = await self._live()
            limit_s = timeout_s or self._transaction_timeout_s
            watchdog = asyncio.get_running_loop().call_later(limit_s, _cut, connection)
            try:
                yield connection
            finally:
                watchdog.cancel()
                await self._pool.putconn(connection)
        except psycopg.Error as error:
            if away(error) or (conflicts and conflict(error)) or (self._patient and lacking(error)):
                raise DependencyDownError("postgres", _reason(error)) from error
            raise

    async def _live(self) -> Connection:
        """A pooled connection that the server has not closed meanwhile: a system call, no round trip.

        A server that stops leaves something to read on an idle connection; only then it is asked.
        """
        while True:
            connection = await self._pool.getconn()
            try:
                if _readable(connection):
                    await AsyncConnectionPool.check_connection(connection)
            except psycopg.Error:
                await connection.close()
                await self._pool.putconn(connection)
            except BaseException:
                await self._pool.putconn(connection)
                raise
            else:
                return connection


async def _retried(attempt: Callable[[], Awaitable[T]]) -> T:
    for tried in range(1, _CONFLICT_TRIES + 1):
        try:
            return await attempt()
        except psycopg.Error as error:
            if not conflict(error):
                raise
            if tried == _CONFLICT_TRIES:
                raise DependencyDownError("postgres", _reason(error)) from error
        await asyncio.sleep(random.uniform(0.005, 0.02) * tried)
    raise AssertionError("unreachable")


def _conninfo(dsn: str, statement_timeout_s: float, connect_timeout_s: float, application_name: str) -> str:
    """The DSN with limits: what it sets itself stays, but for server options, which are added to its own."""
    given = conninfo_to_dict(dsn)
    limits = (
        f"-c statement_timeout={int(statement_timeout_s * 1000)} -c lock_timeout={_LOCK_WAIT_S * 1000} "
        f"-c idle_in_transaction_session_timeout={int(2 * statement_timeout_s * 1000)} -c timezone=UTC"
    )
    defaults: dict[str, Any] = {
        "application_name": application_name,
        "connect_timeout": max(2, round(connect_timeout_s)),  # libpq takes less than 2 s as 2 s
        # A peer that vanished is noticed after 5 + 3 × 2 s idle, or 10 s after sending.
        "keepalives": 1,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    options = " ".join(part for part in (limits, str(given.pop("options", None) or "")) if part)
    return make_conninfo(**{**defaults, **given, "options": options})


def _readable(connection: Connection) -> bool:
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(0))


def _cut(connection: Connection) -> None:
    """Shut the connection's socket, so that whoever waits on it gets an error now.

    Cancelling the task instead would wait for the server to confirm, which a cut network never does.
    """
    with suppress(psycopg.Error, OSError):
        duplicate = socket.socket(fileno=os.dup(connection.pgconn.socket))
        with duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)


def _reason(error: BaseException) -> str:
    """The error's first line: the server's own words on itself, no statement and no values."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
