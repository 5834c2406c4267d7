"""What was done with dead letters: rows in Postgres, because the topic can only be appended to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg

from schemas.errors import ConfigurationError, DependencyDownError
from streams.dlq.letter import Letter

State = Literal["open", "retrying", "retried", "dropped"]
CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """One retry of a letter. ``revision`` is that of the answer it led to, once there is one."""

    run: str
    number: int
    started_by: str
    started_at: datetime
    published_at: datetime | None
    revision: int | None
    answered_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a letter stands. Nobody has touched one that is open."""

    state: State = "open"
    reason: str = ""
    changed_by: str = ""
    changed_at: datetime | None = None
    retries: tuple[Retry, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether something is to be done: it is open, or a retry was begun and not finished."""
        return self.state in ("open", "retrying")


UNTOUCHED = Status()


class LetterStates:
    """The tables ``dead_letters`` and ``redrives``. Every method is one transaction and blocks on Postgres.

    Raises ``DependencyDownError`` when it is away and ``ConfigurationError`` when its tables are not there.
    """

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], *, lane: str, actor: str) -> None:
        self._connection, self._lane, self._actor = connection, lane, actor

    def of(self, letters: Sequence[Letter]) -> Mapping[str, Status]:
        """The status of each letter by its key. One that nobody touched is not in it."""
        keys = [letter.key for letter in letters]
        with _translated():
            rows = self._connection.execute(_STATES, (keys,)).fetchall()
            retries: dict[str, list[Retry]] = {}
            for key, *fields in self._connection.execute(_RETRIES, (keys,)).fetchall() if rows else ():
                retries.setdefault(key, []).append(_retry(fields))
        return {
            key: Status(
                state=state,
                reason=reason,
                changed_by=by,
                changed_at=at.astimezone(UTC),
                retries=tuple(retries.get(key, ())),
            )
            for key, state, reason, by, at in rows
        }

    def begin_retry(self, letter: Letter, *, again: bool = False) -> str | None:
        """Open a retry and return its run; ``None`` for a letter that was retried or dropped, unless ``again``.

        A retry that was begun and never finished is taken up under its run, so that it counts once.
        """
        with _translated(), self._connection.transaction():
            self._connection.execute(_TOUCH, {**self._place(letter), "state": "retrying"})
            row = self._connection.execute(_LOCK, (letter.key,)).fetchone()
            assert row is not None
            begun = self._connection.execute(_UNFINISHED, (letter.key,)).fetchone()
            if row[0] == "retrying" and begun is not None:
                return str(begun[0])
            if row[0] != "retrying" and not again:
                return None
            self._connection.execute(_SET, self._change(letter, "retrying"))
            counted = self._connection.execute(_NEXT, (letter.key,)).fetchone()
            assert counted is not None
            number = int(counted[0])
            run = f"redrive-{letter.key[:16]}-{number}"
            self._connection.execute(_BEGIN, {**self._opening(letter), "run": run, "number": number})
            return run

    def finish_retry(self, letter: Letter, run: str) -> None:
        """Note that the broker has the event. Harmless to repeat."""
        with _translated(), self._connection.transaction():
            self._connection.execute(_PUBLISHED, (run,))
            self._connection.execute(_SET, self._change(letter, "retried"))

    def drop(self, letter: Letter, reason: str) -> bool:
        """Mark a letter as dropped; False for one that was retried or dropped before, which stays as it is."""
        with _translated(), self._connection.transaction():
            self._connection.execute(_TOUCH, {**self._place(letter), "state": "dropped"})
            changed = self._connection.execute(_DROP, {**self._change(letter, "dropped"), "reason": reason})
            return changed.rowcount > 0

    def _place(self, letter: Letter) -> dict[str, Any]:
        place = {"letter": letter.key, "partition": letter.partition, "offset": letter.offset}
        return {**place, "lane": self._lane, "actor": self._actor}

    def _change(self, letter: Letter, state: State) -> dict[str, Any]:
        return {"letter": letter.key, "state": state, "actor": self._actor}

    def _opening(self, letter: Letter) -> dict[str, Any]:
        known = letter.record is not None
        return {
            "letter": letter.key,
            "lane": self._lane,
            "topic": letter.source.topic,
            "digest": letter.digest,
            "partition": letter.source.partition,
            "offset": letter.source.offset,
            "first_failed_at": letter.first_failed_at,
            "tenant": letter.tenant if known else None,
            "request_id": letter.request_id if known else None,
            "actor": self._actor,
        }


@contextmanager
def letter_states(dsn: str, *, lane: str, actor: str) -> Iterator[LetterStates]:
    """The states, over a connection of their own. Raises as ``LetterStates``."""
    with _translated():
        connection = psycopg.connect(
            dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name="headrace dlq"
        )
    with connection:
        yield LetterStates(connection, lane=lane, actor=actor)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UndefinedTable:
        raise ConfigurationError("the database has no table for dead letters; run `headrace migrate`") from None
    except psycopg.OperationalError as error:
        raise DependencyDownError("postgres", type(error).__name__) from error


def _retry(fields: Sequence[Any]) -> Retry:
    run, number, by, started_at, published_at, revision, answered_at = fields
    return Retry(
        run=run,
        number=number,
        started_by=by,
        started_at=started_at.astimezone(UTC),
        published_at=published_at and published_at.astimezone(UTC),
        revision=revision,
        answered_at=answered_at and answered_at.astimezone(UTC),
    )


_STATES = "SELECT letter, state, reason, changed_by, changed_at FROM dead_letters WHERE letter = ANY(%s)"
_RETRIES = """
    SELECT letter, run, number, started_by, created_at, published_at, revision, answered_at
    FROM redrives WHERE letter = ANY(%s) ORDER BY letter, number
"""
_TOUCH = """
    INSERT INTO dead_letters (letter, lane, partition, "offset", state, changed_by)
    VALUES (%(letter)s, %(lane)s, %(partition)s, %(offset)s, 'retrying', %(actor)s)
    ON CONFLICT DO NOTHING
"""
_LOCK = "SELECT state FROM dead_letters WHERE letter = %s FOR UPDATE"
_UNFINISHED = "SELECT run FROM redrives WHERE letter = %s AND published_at IS NULL ORDER BY number DESC LIMIT 1"
_NEXT = "SELECT coalesce(max(number), 0) + 1 FROM redrives WHERE letter = %s"
_SET = """
    UPDATE dead_letters SET state = %(state)s, reason = '', changed_by = %(actor)s, changed_at = clock_timestamp()
    WHERE letter = %(letter)s
"""
_BEGIN = """
    INSERT INTO redrives (run, letter, number, lane, topic, value_digest, source_partition, source_offset,
                          first_failed_at, tenant, request_id, started_by)
    VALUES (%(run)s, %(letter)s, %(number)s, %(lane)s, %(topic)s, %(digest)s, %(partition)s, %(offset)s,
            %(first_failed_at)s, %(tenant)s, %(request_id)s, %(actor)s)
"""
_PUBLISHED = "UPDATE redrives SET published_at = clock_timestamp() WHERE run = %s AND published_at IS NULL"
_DROP = """
    UPDATE dead_letters
    SET state = 'dropped', reason = %(reason)s, changed_by = %(actor)s, changed_at = clock_timestamp()
    WHERE letter = %(letter)s AND state = 'retrying'
"""
