"""Seals and tombstones in Postgres."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from types import TracebackType
from typing import Any, LiteralString, cast

import psycopg
from psycopg.rows import dict_row

from processors.postgres import away
from schemas.errors import ConfigurationError, DependencyDownError
from streams.auditing.seals import NOTHING, Seal, Tombstone
from streams.reading import Place

CONNECT_TIMEOUT_S = 5
ROWS_AT_ONCE = 1_000
# Apart from the locks of migrations and of purging.
_SEALER, _STONES = 0x5EA1, 0x5EA2


class PostgresSeals:
    """One connection, for one job or command. Use it in a ``with`` block. Every method blocks on Postgres.

    Raises ``DependencyDownError`` when it is away and ``ConfigurationError`` where the tables are missing.
    """

    def __init__(self, dsn: str) -> None:
        with _translated():
            self._connection = psycopg.connect(
                dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name="headrace-seal"
            )

    def __enter__(self) -> PostgresSeals:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

    def hold(self, lane: str) -> bool:
        """Be the lane's only sealer until the connection ends; False where another one is."""
        with _translated():
            row = self._connection.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", (_SEALER, lane)).fetchone()
        return bool(row and row[0])

    def now(self) -> datetime:
        """The database's time."""
        with _translated():
            row = self._connection.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        return cast("datetime", row[0])

    def last(self, topics: Sequence[str]) -> dict[Place, Seal]:
        found = self._rows(_LAST, {"topics": list(topics)}, Seal)
        return {(one.topic, one.partition): one for one in found}

    def add(self, seals: Sequence[Seal]) -> None:
        rows = [{name: getattr(one, name) for name in _SEAL} for one in seals]
        try:
            with _translated(), self._connection.transaction(), self._connection.cursor() as cursor:
                cursor.executemany(_ADD, rows)
        except psycopg.errors.UniqueViolation:
            raise ConfigurationError("another sealer has sealed these records; run one for a lane") from None

    def of(self, place: Place) -> Iterator[Seal]:
        return self._paged(_OF, {"topic": place[0], "partition": place[1]}, Seal)

    def leaves(self, seal: Seal) -> Seal:
        key = {"topic": seal.topic, "partition": seal.partition, "number": seal.number}
        return next(iter(self._rows(_WHOLE, key, Seal)), seal)

    def covering(self, place: Place, offset: int) -> Seal | None:
        """The seal over a record, with its leaves; the latest, where a topic was made again."""
        key = {"topic": place[0], "partition": place[1], "offset": offset}
        return next(iter(self._rows(_COVERING, key, Seal)), None)

    def places(self, prefix: str) -> list[Place]:
        """Every partition with seals whose topic's name begins so."""
        with _translated():
            found = self._connection.execute(_PLACES, {"prefix": prefix}).fetchall()
        return [(str(topic), int(partition)) for topic, partition in found]

    def tombstones(self) -> Iterator[Tombstone]:
        return self._paged(_ALL_STONES, {}, Tombstone)

    def bury(self, make: Callable[[int, bytes], Sequence[Tombstone]]) -> list[Tombstone]:
        """Keep tombstones. ``make`` is told the next number and the hash of the last one."""
        with _translated(), self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", (_STONES,))
            row = self._connection.execute(
                "SELECT number, hash FROM tombstones ORDER BY number DESC LIMIT 1"
            ).fetchone()
            stones = list(make(0, NOTHING) if row is None else make(int(row[0]) + 1, bytes(row[1])))
            with self._connection.cursor() as cursor:
                cursor.executemany(_BURY, [{name: getattr(one, name) for name in _STONE} for one in stones])
        return stones

    def forget_leaves(self, place: Place, *, below: int, before: datetime) -> int:
        key = {"topic": place[0], "partition": place[1], "below": below, "before": before}
        with _translated():
            return self._connection.execute(_FORGET, key).rowcount

    def _paged(self, query: LiteralString, parameters: dict[str, Any], kind: type[Any]) -> Iterator[Any]:
        """Rows in order of number, a portion at a time."""
        after = -1
        while found := self._rows(query, {**parameters, "after": after, "most": ROWS_AT_ONCE}, kind):
            yield from found
            after = found[-1].number

    def _rows(self, query: LiteralString, parameters: dict[str, Any], kind: type[Any]) -> list[Any]:
        with _translated(), self._connection.cursor(row_factory=dict_row) as cursor:
            return [kind(**row) for row in cursor.execute(query, parameters)]


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UndefinedTable:
        raise ConfigurationError("the database lacks the tables of seals; run `headrace migrate`") from None
    except psycopg.Error as error:
        if away(error):
            raise DependencyDownError("postgres", type(error).__name__) from error
        raise


_SEAL = tuple(one.name for one in fields(Seal))
_STONE = tuple(one.name for one in fields(Tombstone))
_PLAIN: LiteralString = """
    topic, partition, number, topic_id, from_offset, to_offset, records, first_at, last_at, root, previous, seal,
    sealed_at
"""
_LAST: LiteralString = f"""
    SELECT DISTINCT ON (topic, partition) {_PLAIN} FROM seals WHERE topic = ANY(%(topics)s)
    ORDER BY topic, partition, number DESC
"""
_OF: LiteralString = f"""
    SELECT {_PLAIN} FROM seals WHERE topic = %(topic)s AND partition = %(partition)s AND number > %(after)s
    ORDER BY number LIMIT %(most)s
"""
_WHOLE: LiteralString = f"""
    SELECT {_PLAIN}, leaves, offsets FROM seals
    WHERE topic = %(topic)s AND partition = %(partition)s AND number = %(number)s
"""
_COVERING: LiteralString = f"""
    SELECT {_PLAIN}, leaves, offsets FROM seals
    WHERE topic = %(topic)s AND partition = %(partition)s AND %(offset)s BETWEEN from_offset AND to_offset
    ORDER BY number DESC LIMIT 1
"""
_ADD: LiteralString = """
    INSERT INTO seals (topic, partition, number, topic_id, from_offset, to_offset, records, first_at, last_at, root,
        previous, seal, sealed_at, leaves, offsets)
    VALUES (%(topic)s, %(partition)s, %(number)s, %(topic_id)s, %(from_offset)s, %(to_offset)s, %(records)s,
        %(first_at)s, %(last_at)s, %(root)s, %(previous)s, %(seal)s, %(sealed_at)s, %(leaves)s, %(offsets)s)
"""
_PLACES: LiteralString = """
    SELECT DISTINCT topic, partition FROM seals WHERE starts_with(topic, %(prefix)s) ORDER BY topic, partition
"""
_ALL_STONES: LiteralString = """
    SELECT number, topic, partition, "offset", leaf, request_id, reason, author, erased_at, previous, hash
    FROM tombstones WHERE number > %(after)s ORDER BY number LIMIT %(most)s
"""
_LAST_STONE: LiteralString = "SELECT number, hash FROM tombstones ORDER BY number DESC LIMIT 1"
_BURY: LiteralString = """
    INSERT INTO tombstones (number, topic, partition, "offset", leaf, request_id, reason, author, erased_at, previous,
        hash)
    VALUES (%(number)s, %(topic)s, %(partition)s, %(offset)s, %(leaf)s, %(request_id)s, %(reason)s, %(author)s,
        %(erased_at)s, %(previous)s, %(hash)s)
"""
_FORGET: LiteralString = """
    UPDATE seals SET leaves = NULL, offsets = NULL
    WHERE topic = %(topic)s AND partition = %(partition)s AND to_offset < %(below)s AND last_at < %(before)s
        AND leaves IS NOT NULL
"""
