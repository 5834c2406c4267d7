"""Both sides of a comparison in a file on disk, so that memory does not grow with the run.

The file holds answers: it has no name that somebody else could open, and is gone when the process is, however it ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from enum import IntEnum
from itertools import chain
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streams.replay.diff.compare import Difference
from streams.replay.diff.said import Said

COMMIT_EVERY = 5_000


class Side(IntEnum):
    """Whose words: of what is compared against, and of the run."""

    BASE = 0
    RUN = 1


class Pairs:
    """Both sides by tenant and request, and what is different. Use it in a ``with`` block; blocks on the disk."""

    def __init__(self) -> None:
        # No name: a file that SQLite removes as soon as it has opened it. A comparison reads in one thread and sums up
        # in another, never at once.
        self._file = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._file.executescript(_TABLES)
        self._file.execute("BEGIN")
        self._unsaved = 0

    def __enter__(self) -> Pairs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def want(self, tenant: str, request_id: str) -> None:
        """Note a request that the run took."""
        self._write("INSERT OR IGNORE INTO wanted (request_id, tenant) VALUES (?, ?)", (request_id, tenant))

    def wants_key(self, key: bytes | None) -> bool:
        """Whether some tenant's request of this id is wanted."""
        name = (key or b"").decode("utf-8", "replace")
        return self._file.execute("SELECT 1 FROM wanted WHERE request_id = ? LIMIT 1", (name,)).fetchone() is not None

    def wants(self, tenant: str, request_id: str) -> bool:
        """Whether this very request is wanted."""
        sql = "SELECT 1 FROM wanted WHERE request_id = ? AND tenant = ?"
        return self._file.execute(sql, (request_id, tenant)).fetchone() is not None

    def wanted(self, most: int) -> Iterator[list[tuple[str, str]]]:
        """Tenants and ids of what is wanted, so many at a time."""
        cursor = self._file.execute("SELECT tenant, request_id FROM wanted ORDER BY request_id, tenant")
        while rows := cursor.fetchmany(most):
            yield rows

    def put(self, side: Side, said: Said) -> None:
        """Keep what a side said; of several revisions the latest."""
        key = (side, said.tenant, said.request_id)
        self._write(_PUT, (*key, said.revision, said.event_id, said.encode()))

    def known(self, side: Side, tenant: str, request_id: str) -> tuple[int, str] | None:
        """Revision and event id of what a side said."""
        sql = "SELECT revision, event_id FROM sides WHERE side = ? AND tenant = ? AND request_id = ?"
        found = self._file.execute(sql, (side, tenant, request_id)).fetchone()
        return None if found is None else (int(found[0]), str(found[1]))

    def put_scores(
        self, side: Side, tenant: str, request_id: str, scores: Mapping[str, float | None], *, revision: int = 0
    ) -> None:
        """Keep the scores of a side; of several revisions of the answer those of the latest."""
        for name, value in scores.items():
            self._write(_PUT_SCORE, (side, tenant, request_id, name, revision, value))

    def pairs(self) -> Iterator[tuple[Said, Said, dict[str, tuple[float | None, float | None]]]]:
        """What both sides said of each request that both know, and both figures of each score that either has."""
        for tenant, request_id, base, run in self._file.execute(_PAIRS):
            yield Said.decode(base), Said.decode(run), self.scores(tenant, request_id)

    def scores(self, tenant: str, request_id: str) -> dict[str, tuple[float | None, float | None]]:
        """Both figures of each score that both sides have."""
        return {name: (base, run) for name, base, run in self._file.execute(_SCORES, (tenant, request_id))}

    def said(self, side: Side, tenant: str, request_id: str) -> Said:
        """What a side said of a request that it knows."""
        sql = "SELECT said FROM sides WHERE side = ? AND tenant = ? AND request_id = ?"
        return Said.decode(self._file.execute(sql, (side, tenant, request_id)).fetchone()[0])

    def add(self, difference: Difference, verdicts: Iterable[tuple[str, str, str]]) -> None:
        """Keep what is different in a pair; ``verdicts``: guard and what it found before and now."""
        self._write(_ADD, asdict(difference))
        for guard, before, now in verdicts:
            self._write(_ADD_VERDICT, (guard, before, now))

    def set_meaning(self, tenant: str, request_id: str, cosine: float) -> None:
        """Note how near the two texts of a pair are in meaning."""
        sql = "UPDATE differences SET cosine = ? WHERE tenant = ? AND request_id = ?"
        self._write(sql, (cosine, tenant, request_id))

    def rows(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """What a query over ``differences``, ``sides``, ``scores`` and ``verdicts`` finds."""
        return self._file.execute(sql, parameters).fetchall()

    def numbers(self, sql: str, parameters: Sequence[Any] = (), *, columns: int = 1) -> NDArray[np.float64]:
        """What a query finds as an array, a row a record. It must not find a null."""
        cursor = self._file.execute(sql, parameters)
        return np.fromiter(chain.from_iterable(cursor), dtype=np.float64).reshape(-1, columns)

    def _write(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any]) -> None:
        self._file.execute(sql, parameters)
        self._unsaved += 1
        if self._unsaved >= COMMIT_EVERY:
            # What is kept in memory until then is bounded.
            self._file.execute("COMMIT")
            self._file.execute("BEGIN")
            self._unsaved = 0


_NAMES = [one.name for one in fields(Difference)]
_TABLES = f"""
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -32768;
    CREATE TABLE wanted (request_id TEXT, tenant TEXT, PRIMARY KEY (request_id, tenant)) WITHOUT ROWID;
    CREATE TABLE sides (side INTEGER, tenant TEXT, request_id TEXT, revision INTEGER, event_id TEXT, said BLOB,
        PRIMARY KEY (side, tenant, request_id));
    CREATE TABLE scores (side INTEGER, tenant TEXT, request_id TEXT, name TEXT, revision INTEGER, value REAL,
        PRIMARY KEY (tenant, request_id, name, side)) WITHOUT ROWID;
    CREATE TABLE differences ({", ".join(_NAMES)}, PRIMARY KEY (tenant, request_id));
    CREATE TABLE verdicts (guard TEXT, before TEXT, now TEXT, count INTEGER, PRIMARY KEY (guard, before, now));
"""
_PUT = """
    INSERT INTO sides (side, tenant, request_id, revision, event_id, said) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET revision = excluded.revision, event_id = excluded.event_id, said = excluded.said
    WHERE excluded.revision >= sides.revision
"""
_PUT_SCORE = """
    INSERT INTO scores (side, tenant, request_id, name, revision, value) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET revision = excluded.revision, value = excluded.value
    WHERE excluded.revision >= scores.revision
"""
_PAIRS = """
    SELECT base.tenant, base.request_id, base.said, run.said FROM sides AS base
    JOIN sides AS run ON run.side = 1 AND run.tenant = base.tenant AND run.request_id = base.request_id
    WHERE base.side = 0
"""
_SCORES = """
    SELECT base.name, base.value, run.value FROM scores AS base
    JOIN scores AS run ON run.side = 1 AND run.tenant = base.tenant AND run.request_id = base.request_id
        AND run.name = base.name
    WHERE base.side = 0 AND base.tenant = ? AND base.request_id = ? ORDER BY base.name
"""
_ADD = f"INSERT INTO differences ({', '.join(_NAMES)}) VALUES ({', '.join(':' + name for name in _NAMES)})"
_ADD_VERDICT = """
    INSERT INTO verdicts (guard, before, now, count) VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1
"""
