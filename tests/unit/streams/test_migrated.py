"""A worker waits for the migrations of its build, and for no others."""

from __future__ import annotations

from typing import Any, cast

import psycopg
import pytest

from infra.migrate import load
from processors.postgres import Database
from schemas.errors import ConfigurationError, DependencyDownError
from streams.migrated import check_migrated

EVERY = [one.version for one in load()]


class Rows:
    def __init__(self, versions: list[int], error: Exception | None = None) -> None:
        self.versions, self.error = versions, error

    async def execute(self, _statement: str) -> list[tuple[Any, ...]]:
        if self.error is not None:
            raise self.error
        return [(version,) for version in self.versions]


async def check(versions: list[int], error: Exception | None = None) -> None:
    await check_migrated(cast("Database", Rows(versions, error)))


async def test_a_database_that_has_all_of_them_or_more_is_taken() -> None:
    await check(EVERY)
    await check([*EVERY, 9_999])


async def test_what_is_pending_is_named_with_the_command() -> None:
    with pytest.raises(ConfigurationError, match=rf"lacks {load()[-1].label}; run `headrace migrate`"):
        await check(EVERY[:-1])
    with pytest.raises(ConfigurationError, match="lacks 0001_"):
        await check([], psycopg.errors.UndefinedTable())


async def test_who_may_not_look_goes_on() -> None:
    await check([], psycopg.errors.InsufficientPrivilege())


async def test_a_worker_s_database_that_lacks_the_table_is_told_apart_from_one_that_is_away() -> None:
    away = DependencyDownError("postgres", "no connection")
    with pytest.raises(DependencyDownError, match="no connection"):
        await check([], away)
    lacks = DependencyDownError("postgres", "relation does not exist")
    lacks.__cause__ = psycopg.errors.UndefinedTable()
    with pytest.raises(ConfigurationError, match="lacks 0001_"):
        await check([], lacks)
