"""What the database holds, against this version's tables, settings and prompts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg

from infra.migrate import MigrationError, pending
from processors.postgres import Database
from processors.prompts import PgPrompts, parse_reference
from streams.doctor.checkup import ProblemError, in_thread
from streams.doctor.redact import shown_dsn
from streams.settings import Settings

CONNECT_TIMEOUT_S = 4
# The first with iterative index scans, which filtered searches rely on.
PGVECTOR = (0, 8)


async def look_postgres(settings: Settings) -> str:
    """Whether it answers, and which version."""
    version = await _one(settings, "SHOW server_version")
    return f"Postgres {version} at {shown_dsn(_dsn(settings))}"


async def look_pgvector(settings: Settings) -> str:
    """Whether the extension is there, and new enough."""
    version = await _one(settings, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    if version is None:
        raise ProblemError("the extension vector is not in this database")
    if tuple(int(part) for part in str(version).split(".")[:2]) < PGVECTOR:
        raise ProblemError(f"pgvector {version} is too old: 0.8 or newer is needed", "ALTER EXTENSION vector UPDATE")
    return f"pgvector {version}"


async def look_migrations(settings: Settings) -> str:
    """Whether the tables are this version's."""
    try:
        missing = await in_thread(lambda: pending(_dsn(settings)))
    except MigrationError as error:
        raise ProblemError(str(error), "restore the migration file of the release that applied it") from None
    if missing:
        raise ProblemError(f"pending: {', '.join(missing)}")
    return "all migrations are applied"


async def table_dimension(settings: Settings) -> int | None:
    """The length of the vectors in the table of passages; None when there is no table."""
    found = await _one(
        settings,
        "SELECT atttypmod FROM pg_attribute"
        " WHERE attrelid = to_regclass('passages') AND attname = 'embedding' AND NOT attisdropped",
    )
    return int(found) if found is not None else None


async def look_prompts(settings: Settings) -> str:
    """Whether every route's prompt is there."""
    database = await Database.open(_dsn(settings), max_size=1, connect_timeout_s=CONNECT_TIMEOUT_S)
    try:
        prompts = PgPrompts(database)
        found, missing = [], []
        for name, route in settings.routes.items():
            stored = await prompts.show(*parse_reference(route.prompt))
            if stored is None:
                missing.append(f"route {name} asks for {route.prompt!r}")
            else:
                found.append(f"{name}: {stored.reference}")
    finally:
        await database.close()
    if missing:
        raise ProblemError("no such prompt: " + "; ".join(missing))
    return ", ".join(found)


async def database_time(settings: Settings) -> tuple[datetime, float]:
    """The database's time, and by how many seconds this machine's clock is behind it."""
    async with _connection(settings) as connection:
        before = datetime.now(UTC)
        row = await (await connection.execute("SELECT clock_timestamp()")).fetchone()
        after = datetime.now(UTC)
    assert row is not None
    now: datetime = row[0]
    return now, (now - (before + (after - before) / 2)).total_seconds()


def _dsn(settings: Settings) -> str:
    return settings.postgres.dsn.get_secret_value()


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
    try:
        connection = await psycopg.AsyncConnection.connect(
            _dsn(settings), autocommit=True, connect_timeout=CONNECT_TIMEOUT_S
        )
    except psycopg.ProgrammingError:
        # Its message quotes the DSN.
        raise ProblemError(
            "postgres.dsn does not parse", "write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from None
    async with connection:
        await connection.execute("SET statement_timeout = '4s'")
        yield connection


async def _one(settings: Settings, statement: LiteralString) -> Any:
    """The first column of the first row; None when there is no row."""
    async with _connection(settings) as connection:
        row = await (await connection.execute(statement)).fetchone()
    return row[0] if row else None
