"""Whether the database has the tables of this build. A worker waits for them, as it does for topics and schemas.

Without a column that it needs every event would fail at each try, and end as a dead letter.
"""

from __future__ import annotations

import psycopg

from infra.migrate import load
from processors.postgres import Database
from schemas.errors import ConfigurationError, DependencyDownError


async def check_migrated(database: Database) -> None:
    """Raise ``ConfigurationError`` while migrations of this build are pending. Blocks on Postgres.

    A login that may not look goes on: nobody knows then.
    """
    try:
        applied = {version for (version,) in await database.execute("SELECT version FROM schema_migrations")}
    except (psycopg.Error, DependencyDownError) as error:
        # A worker's database has both for "away".
        lacks = error.__cause__ or error
        if isinstance(lacks, psycopg.errors.InsufficientPrivilege):
            return
        if not isinstance(lacks, psycopg.errors.UndefinedTable):
            raise
        applied = set()
    missing = [one.label for one in load() if one.version not in applied]
    if missing:
        raise ConfigurationError(f"the database lacks {', '.join(missing)}; run `headrace migrate` of this build")
