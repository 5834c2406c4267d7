"""Applies the numbered SQL files of ``infra/migrations`` to a database, once each and in order.

A file pair ``NNNN_name.up.sql`` / ``NNNN_name.down.sql`` is a version. Each runs in a transaction of its own under an
advisory lock, so that two processes that start at once apply it once. What was applied is recorded with the digest
of its text: a released file that is changed afterwards is refused, because databases out there ran the old text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

MIGRATIONS = Path(__file__).parent / "migrations"
DEFAULT_DIMENSION = 384
# Any constant will do, as long as every release uses the same.
ADVISORY_LOCK = 0x48656164
CONNECT_TIMEOUT_S = 10
_NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)\.up\.sql$")
_TABLE = """
create table if not exists schema_migrations (
  version int primary key,
  name text not null,
  digest text not null,
  applied_at timestamptz not null default now()
)
"""


class MigrationError(Exception):
    """A migration can't be applied or reverted; the message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered pair of SQL files. ``down`` is None when there is no way back."""

    version: int
    name: str
    up: str
    down: str | None

    @property
    def label(self) -> str:
        return f"{self.version:04d}_{self.name}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.up.encode()).hexdigest()


def load(folder: Path = MIGRATIONS) -> list[Migration]:
    """Read the migrations of a folder, in order. Raises MigrationError for a name or number that does not fit."""
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.up.sql")):
        match = _NAME.match(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named NNNN_name.up.sql")
        version, name = int(match[1]), match[2]
        if version in found:
            raise MigrationError(f"{path.name} and {found[version].label}.up.sql have the same number; renumber one")
        down = path.with_name(f"{match[1]}_{name}.down.sql")
        found[version] = Migration(version, name, path.read_text(), down.read_text() if down.exists() else None)
    return [found[version] for version in sorted(found)]


def apply(dsn: str, *, embedding_dimension: int = DEFAULT_DIMENSION, folder: Path = MIGRATIONS) -> list[str]:
    """Apply what is pending and return its labels, oldest first.

    Blocks on Postgres and, while another process migrates, on its lock. Raises MigrationError for a changed or failing
    migration (those before it stay applied) and psycopg.OperationalError when Postgres is away.
    """
    done: list[str] = []
    with _locked(dsn) as connection:
        for migration in _pending(connection, load(folder)):
            _run(connection, migration, migration.up, embedding_dimension)
            done.append(migration.label)
    return done


def pending(dsn: str, *, folder: Path = MIGRATIONS) -> list[str]:
    """The labels that ``apply`` would apply. Writes nothing; blocks on Postgres; raises as ``apply``."""
    with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        return [migration.label for migration in _pending(connection, load(folder))]


def above(dsn: str, to: int) -> list[str]:
    """The labels that ``revert`` would take back, newest first. Writes nothing; blocks on Postgres."""
    with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        if not _applied(connection):
            return []
        query = "select version, name from schema_migrations where version > %s order by version desc"
        return [f"{version:04d}_{name}" for version, name in connection.execute(query, (to,)).fetchall()]


def revert(dsn: str, to: int, *, embedding_dimension: int = DEFAULT_DIMENSION, folder: Path = MIGRATIONS) -> list[str]:
    """Take back every applied version above ``to``, newest first, and return their labels.

    Blocks on Postgres. Raises MigrationError, before it changes anything, when one of them has no way back.
    """
    with _locked(dsn) as connection:
        known = {migration.version: migration for migration in load(folder)}
        versions = sorted((version for version in _applied(connection) if version > to), reverse=True)
        steps = [(version, known.get(version)) for version in versions]
        for version, step in steps:
            if step is None or step.down is None:
                raise MigrationError(f"version {version:04d} is applied and has no .down.sql file in {folder}")
        reverted: list[str] = []
        for _, step in steps:
            assert step is not None and step.down is not None
            _run(connection, step, step.down, embedding_dimension, forget=True)
            reverted.append(step.label)
        return reverted


@contextmanager
def _locked(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        connection.execute("select pg_advisory_lock(%s)", (ADVISORY_LOCK,))
        connection.execute("set client_min_messages = warning")
        connection.execute(_TABLE)
        yield connection


def _applied(connection: psycopg.Connection) -> dict[int, str]:
    row = connection.execute("select to_regclass('schema_migrations') is not null").fetchone()
    if row is None or not row[0]:
        return {}
    return dict(connection.execute("select version, digest from schema_migrations").fetchall())


def _pending(connection: psycopg.Connection, migrations: Sequence[Migration]) -> list[Migration]:
    applied = _applied(connection)
    for migration in migrations:
        digest = applied.get(migration.version)
        if digest is not None and digest != migration.digest:
            raise MigrationError(
                f"{migration.label}.up.sql was changed after it had been applied to this database; "
                "restore the file and put the change into a new migration"
            )
    return [migration for migration in migrations if migration.version not in applied]


def _run(
    connection: psycopg.Connection, migration: Migration, sql: str, dimension: int, *, forget: bool = False
) -> None:
    statements = sql.replace("{embedding_dimension}", str(int(dimension)))
    try:
        with connection.transaction():
            connection.execute(statements.encode())
            if forget:
                connection.execute("delete from schema_migrations where version = %s", (migration.version,))
            else:
                connection.execute(
                    "insert into schema_migrations (version, name, digest) values (%s, %s, %s)",
                    (migration.version, migration.name, migration.digest),
                )
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise MigrationError(f"{migration.label} failed and was rolled back: {error}") from error
