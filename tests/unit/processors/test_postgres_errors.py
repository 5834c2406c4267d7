"""Which errors mean that Postgres is away."""

from __future__ import annotations

import psycopg
import psycopg.errors
import psycopg_pool
import pytest

from processors.postgres import Database, away, conflict, lacking
from schemas.errors import DependencyDownError


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("server closed the connection unexpectedly"),
        psycopg.OperationalError("the connection is closed"),
        psycopg.InterfaceError("the connection is closed"),
        psycopg.errors.ConnectionTimeout("connection timeout expired"),
        psycopg.errors.AdminShutdown("terminating connection due to administrator command"),
        psycopg.errors.CrashShutdown("crash of another server process"),
        psycopg.errors.CannotConnectNow("the database system is starting up"),
        psycopg.errors.QueryCanceled("canceling statement due to statement timeout"),
        psycopg.errors.DiskFull("could not extend file"),
        psycopg.errors.TooManyConnections("sorry, too many clients already"),
        psycopg.errors.OutOfMemory("out of memory"),
        psycopg.errors.ConnectionFailure("gone"),
        psycopg.errors.IoError("could not read"),
        psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"),
        psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT in a read-only transaction"),
        psycopg.errors.IdleInTransactionSessionTimeout("terminating connection"),
        psycopg_pool.PoolTimeout("no connection after 5 s"),
        psycopg_pool.PoolClosed("closed"),
        psycopg_pool.TooManyRequests("queue is full"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_server_that_can_not_serve_is_away(error: Exception) -> None:
    assert away(error)
    assert not conflict(error)


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.SyntaxError("syntax error"),
        psycopg.errors.UniqueViolation("duplicate key"),
        psycopg.errors.UndefinedTable("relation does not exist"),
        psycopg.errors.InvalidTextRepresentation("invalid input syntax"),
        psycopg.errors.SerializationFailure("could not serialize access"),
        psycopg.errors.DeadlockDetected("deadlock detected"),
        psycopg.InterfaceError("the cursor is closed"),
        psycopg.DataError("PostgreSQL text fields cannot contain NUL bytes"),
        psycopg.ProgrammingError("the query has 1 placeholder but 2 parameters were passed"),
        ConnectionResetError("somebody else's connection"),
        ValueError("no"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error}"[:40],
)
def test_a_wrong_statement_is_not_away(error: Exception) -> None:
    assert not away(error)


@pytest.mark.parametrize("kind", [psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected])
def test_a_lost_race_is_a_conflict(kind: type[psycopg.Error]) -> None:
    assert conflict(kind("lost"))


async def test_opening_without_a_server_says_so_at_once() -> None:
    with pytest.raises(DependencyDownError, match=r"postgres is not reachable: .*refused") as raised:
        await Database.open("postgresql://u:a-secret@127.0.0.1:1/d")
    assert "a-secret" not in str(raised.value)


def test_a_missing_table_or_right_is_for_an_operator_to_give() -> None:
    assert lacking(psycopg.errors.InsufficientPrivilege("permission denied for table finals"))
    assert lacking(psycopg.errors.UndefinedColumn("column finals.x does not exist"))
    assert not lacking(psycopg.errors.UniqueViolation("duplicate key"))
