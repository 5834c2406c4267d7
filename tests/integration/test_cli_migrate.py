"""``headrace migrate`` and ``prepare`` on a real Postgres: forth, back after a question, and with clear errors."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra import migrate
from tests.support.commands import Commands
from tests.support.ports import nobodys_port
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


@pytest.fixture
def commands(stack: TestStack, lane: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    """Commands with a database of their own, still empty."""
    name = f"c_{secrets.token_hex(4)}"
    with psycopg.connect(stack.postgres_dsn, autocommit=True) as connection:
        connection.execute(f"create database {name}")
        monkeypatch.setenv("HEADRACE_POSTGRES__DSN", stack.postgres_dsn.rsplit("/", 1)[0] + f"/{name}")
        yield Commands(stack, lane, tmp_path, ("control",))
        connection.execute(f"drop database {name} with (force)")


def test_migrations_go_forth_and_back_and_a_database_at_an_earlier_version_is_brought_forth(commands: Commands) -> None:
    every = [migration.label for migration in migrate.load()]
    assert commands.run("migrate", "--json").objects == [{"applied": every}]
    assert commands.run("migrate", "--json").objects == [{"applied": []}]
    back = commands.run("migrate", "--to", "3", "--yes", "--json")
    assert back.objects == [{"reverted": every[:2:-1]}]
    assert commands.run("migrate", "--json").objects == [{"applied": every[3:]}]


def test_nothing_is_dropped_without_a_yes(commands: Commands) -> None:
    every = [migration.label for migration in migrate.load()]
    commands.run("migrate")
    refused = commands.run("migrate", "--to", "0", stdin=b"n\n")
    assert refused.code == 1
    assert every[-1] in refused.err
    assert commands.run("migrate", "--json").objects == [{"applied": []}]


def test_prepare_makes_tables_topics_and_schemas_and_does_nothing_twice(commands: Commands) -> None:
    [first] = commands.run("prepare", "--lane", commands.lane, "--json").objects
    assert first["migrations"] == [migration.label for migration in migrate.load()]
    assert f"{commands.lane}.answers" in first["topics"]
    [second] = commands.run("prepare", "--lane", commands.lane, "--wait", "5", "--json").objects
    assert second["migrations"] == []


def test_a_postgres_that_is_away_is_named(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    with nobodys_port() as port:
        monkeypatch.setenv("HEADRACE_POSTGRES__DSN", f"postgresql://somebody:hidden@127.0.0.1:{port}/none")
        away = commands.run("migrate")
    assert (away.code, away.out) == (1, "")
    assert "postgres" in away.err
    assert "hidden" not in away.err
