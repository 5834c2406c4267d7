"""The database as adapters use it, on real Postgres, with the network taken away and given back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from processors.postgres import Connection, Database
from schemas.errors import DependencyDownError
from streams.migrated import check_migrated
from tests.support.proxy import TcpProxy
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


@pytest.fixture
def proxy(stack: TestStack) -> Iterator[TcpProxy]:
    given = conninfo_to_dict(stack.postgres_dsn)
    with TcpProxy("127.0.0.1", int(str(given["port"]))) as started:
        yield started


@pytest.fixture
async def behind(stack: TestStack, proxy: TcpProxy, lane: str) -> AsyncIterator[Database]:
    dsn = make_conninfo(stack.postgres_dsn, host="127.0.0.1", port=proxy.port)
    opened = await Database.open(dsn, max_size=4, application_name=lane)
    yield opened
    await opened.close()


async def _recovers(database: Database, *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            return await database.ping()
        except DependencyDownError:
            assert time.monotonic() < deadline, "Postgres was not reached again"


async def test_limits_and_name_are_set_on_the_server(database: Database) -> None:
    rows = await database.execute(
        "SELECT name, setting FROM pg_settings WHERE name IN "
        "('statement_timeout', 'lock_timeout', 'application_name', 'TimeZone')"
    )
    assert dict(rows) == {
        "statement_timeout": "15000",
        "lock_timeout": "10000",
        "application_name": "headrace",
        "TimeZone": "UTC",
    }


async def test_a_raising_block_is_rolled_back_and_a_whole_one_is_committed(database: Database, lane: str) -> None:
    insert = "INSERT INTO finals (tenant, lane, request_id, revision, event_id, status, answer) "
    insert += f"VALUES ('t', '{lane}', %s, 0, 'e', 'answered', 'x')"
    with pytest.raises(RuntimeError):
        async with database.transaction() as connection:
            await connection.execute(insert, ["lost"])  # type: ignore[arg-type]
            raise RuntimeError
    async with database.transaction() as connection:
        await connection.execute(insert, ["kept"])  # type: ignore[arg-type]
    rows = await database.execute("SELECT request_id FROM finals WHERE lane = %s", [lane])
    assert rows == [("kept",)]


async def test_the_time_is_the_databases_in_utc(database: Database) -> None:
    first, second = await database.now(), await database.now()
    assert first < second
    assert str(first.tzinfo) == "UTC"


async def test_a_statement_that_takes_too_long_counts_as_away(stack: TestStack) -> None:
    database = await Database.open(stack.postgres_dsn, statement_timeout_s=0.2)
    try:
        with pytest.raises(DependencyDownError, match="statement timeout"):
            await database.execute("SELECT pg_sleep(5)")
        await database.ping()
    finally:
        await database.close()


async def test_a_wrong_statement_is_nobodys_outage(database: Database) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        await database.execute("SELECT * FROM nothing_like_it")


async def test_what_a_worker_s_database_lacks_counts_as_away(stack: TestStack, lane: str) -> None:
    database = await Database.open(stack.postgres_dsn, patient=True)
    try:
        with pytest.raises(DependencyDownError, match='relation "nothing_like_it" does not exist'):
            await database.execute("SELECT * FROM nothing_like_it")
        with pytest.raises(DependencyDownError, match='column "nothing_like_it" does not exist'):
            await database.execute("SELECT nothing_like_it FROM finals")
        async with database.transaction() as connection:
            await connection.execute(SQL("CREATE ROLE {}").format(Identifier(lane)))
        with pytest.raises(DependencyDownError, match="permission denied for table finals"):
            async with database.transaction() as connection:
                await connection.execute(SQL("SET LOCAL ROLE {}").format(Identifier(lane)))
                await connection.execute("SELECT * FROM finals")
        async with database.transaction() as connection:
            await connection.execute(SQL("DROP ROLE {}").format(Identifier(lane)))
        await check_migrated(database)
    finally:
        await database.close()


async def test_connections_that_the_server_ended_are_replaced_without_an_error(
    stack: TestStack, database: Database, lane: str
) -> None:
    """As after a restart: the first statement afterwards does not fail on a stale connection."""

    # Each has a connection of its own, because none gives its back before the last one has one.
    together = asyncio.Barrier(4)

    async def hold(connection: Connection) -> None:
        await connection.execute("SELECT 1")
        await together.wait()

    pool = await Database.open(stack.postgres_dsn, max_size=4, application_name=lane)
    try:
        await asyncio.gather(*(pool.run(hold) for _ in range(4)))
        ours = "FROM pg_stat_activity WHERE application_name = %s"
        ended = await database.execute(f"SELECT count(pg_terminate_backend(pid)) {ours}", [lane])  # type: ignore[arg-type]
        assert ended[0][0] == 4
        async with asyncio.timeout(60):
            while (await database.execute(f"SELECT count(*) {ours}", [lane]))[0][0] > 0:  # type: ignore[arg-type]
                await asyncio.sleep(0.01)
        await asyncio.gather(*(pool.ping() for _ in range(8)))
    finally:
        await pool.close()


async def test_an_outage_is_named_and_ends_by_itself(behind: Database, proxy: TcpProxy) -> None:
    await behind.ping()
    proxy.cut()
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(DependencyDownError) as raised:
            await behind.ping()
        assert raised.value.dependency == "postgres"
    assert time.monotonic() - started < 60
    # Longer than the pool keeps trying: it has given up on all of its connections.
    results = await asyncio.gather(*(behind.ping() for _ in range(6)), return_exceptions=True)
    assert all(isinstance(result, DependencyDownError) for result in results)
    proxy.heal()
    await _recovers(behind, within_s=60)
    await asyncio.gather(*(behind.ping() for _ in range(8)))


async def test_a_connection_lost_in_a_transaction_is_an_outage(behind: Database, proxy: TcpProxy) -> None:
    with pytest.raises(DependencyDownError):
        async with behind.transaction() as connection:
            await connection.execute("SELECT 1")
            proxy.cut()
            await connection.execute("SELECT 1")
    proxy.heal()
    await _recovers(behind, within_s=60)


async def test_a_network_that_swallows_everything_is_noticed(behind: Database, proxy: TcpProxy) -> None:
    """No reset, no end of file: only the limit on the transaction ends the wait."""
    await behind.ping()
    started = time.monotonic()
    with pytest.raises(DependencyDownError):
        async with behind.transaction(timeout_s=1) as connection:
            proxy.delay_s = 600
            await connection.execute("SELECT 1")
    assert time.monotonic() - started < 60
    proxy.delay_s = 0
    await _recovers(behind, within_s=60)


async def test_a_deadlock_is_run_again(database: Database, lane: str) -> None:
    for request_id in ("a", "b"):
        await database.execute(
            "INSERT INTO finals (tenant, lane, request_id, revision, event_id, status, answer) "
            "VALUES ('t', %s, %s, 0, 'e', '', 'x')",
            [lane, request_id],
        )
    both, runs = asyncio.Barrier(2), 0

    async def update(connection: Connection, first: str, second: str) -> None:
        nonlocal runs
        runs += 1
        statement: Any = "UPDATE finals SET status = status || 'x' WHERE lane = %s AND request_id = %s"
        await connection.execute(statement, [lane, first])
        if runs <= 2:
            await both.wait()
        await connection.execute(statement, [lane, second])

    await asyncio.gather(
        database.run(lambda connection: update(connection, "a", "b")),
        database.run(lambda connection: update(connection, "b", "a")),
    )
    assert runs == 3
    rows = await database.execute("SELECT status FROM finals WHERE lane = %s", [lane])
    assert rows == [("xx",), ("xx",)]


async def test_a_deadlock_in_a_plain_transaction_is_for_the_caller_to_repeat(database: Database) -> None:
    with pytest.raises(DependencyDownError):
        async with database.transaction():
            raise psycopg.errors.DeadlockDetected("lost")
