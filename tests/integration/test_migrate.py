"""The migration runner on a real Postgres, with files of the tests' own."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra import migrate
from tests.support.stack import TestStack


@pytest.fixture
def dsn(stack: TestStack) -> Iterator[str]:
    """An empty database of the test's own."""
    name = f"m_{secrets.token_hex(4)}"
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}")
        yield stack.postgres_dsn.rsplit("/", 1)[0] + f"/{name}"
        connection.execute(f"drop database {name} with (force)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_one.up.sql").write_text("create table one (id int, width int default {embedding_dimension});")
    (tmp_path / "0001_one.down.sql").write_text("drop table one;")
    (tmp_path / "0002_two.up.sql").write_text("create table two (id int); insert into two values (1), (2);")
    (tmp_path / "0002_two.down.sql").write_text("drop table two;")
    return tmp_path


def rows(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def test_pending_migrations_are_applied_once_and_in_order(dsn: str, folder: Path) -> None:
    assert migrate.pending(dsn, folder=folder) == ["0001_one", "0002_two"]
    assert migrate.apply(dsn, folder=folder, embedding_dimension=7) == ["0001_one", "0002_two"]
    assert migrate.pending(dsn, folder=folder) == []
    assert migrate.apply(dsn, folder=folder) == []
    assert rows(dsn, "insert into one (id) values (1) returning width") == [(7,)]
    assert rows(dsn, "select count(*) from two") == [(2,)]


def test_a_released_migration_that_was_changed_is_refused(dsn: str, folder: Path) -> None:
    migrate.apply(dsn, folder=folder)
    (folder / "0001_one.up.sql").write_text("create table other (id int);")
    with pytest.raises(migrate.MigrationError, match=r"0001_one\.up\.sql was changed"):
        migrate.apply(dsn, folder=folder)


def test_a_failing_migration_leaves_nothing_behind_and_keeps_those_before(dsn: str, folder: Path) -> None:
    (folder / "0002_two.up.sql").write_text("create table two (id int); select 1 / 0;")
    with pytest.raises(migrate.MigrationError, match=r"0002_two failed.*division by zero"):
        migrate.apply(dsn, folder=folder)
    assert migrate.pending(dsn, folder=folder) == ["0002_two"]
    assert rows(dsn, "select to_regclass('one') is null, to_regclass('two') is null") == [(False, True)]


def test_revert_takes_back_to_the_version_named(dsn: str, folder: Path) -> None:
    migrate.apply(dsn, folder=folder)
    assert migrate.revert(dsn, 1, folder=folder) == ["0002_two"]
    assert migrate.revert(dsn, 0, folder=folder) == ["0001_one"]
    assert rows(dsn, "select to_regclass('one') is null") == [(True,)]
    assert migrate.apply(dsn, folder=folder) == ["0001_one", "0002_two"]


def test_revert_without_a_way_back_changes_nothing(dsn: str, folder: Path) -> None:
    (folder / "0001_one.down.sql").unlink()
    migrate.apply(dsn, folder=folder)
    with pytest.raises(migrate.MigrationError, match="0001"):
        migrate.revert(dsn, 0, folder=folder)
    assert migrate.pending(dsn, folder=folder) == []


def test_two_processes_that_migrate_at_once_apply_each_version_once(dsn: str, folder: Path) -> None:
    done: list[list[str]] = []
    threads = [threading.Thread(target=lambda: done.append(migrate.apply(dsn, folder=folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [[], [], [], ["0001_one", "0002_two"]]


def test_the_shipped_migrations_go_forth_and_back_and_forth(dsn: str) -> None:
    applied = migrate.apply(dsn)
    assert applied == [migration.label for migration in migrate.load()]
    assert migrate.revert(dsn, 0) == applied[::-1]
    assert rows(dsn, "select count(*) from pg_tables where schemaname = 'public'") == [(1,)]
    assert migrate.apply(dsn) == applied
