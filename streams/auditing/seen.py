"""What verifying has read, in a SQLite file of its own: a stretch of any size takes the same memory."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import Any

from streams.auditing.findings import Finding

BATCH = 5_000
CACHE_KB = 65_536


class Seen:
    """Rows about requests, events, answers and letters; and the findings. Use it in a ``with`` block."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._waiting: dict[str, list[Sequence[Any]]] = {}
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KB}", "temp_store=FILE"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(_TABLES)
        self._connection.execute("BEGIN")

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

    def add(self, table: str, row: Sequence[Any]) -> None:
        """Keep a row of one of the tables below."""
        rows = self._waiting.setdefault(table, [])
        rows.append(row)
        if len(rows) >= BATCH:
            self._write(table)

    def found(self, findings: Iterable[Finding]) -> None:
        """Keep findings."""
        for finding in findings:
            self.add("findings", astuple(finding))

    def find(self, kind: str, query: str, parameters: dict[str, Any]) -> None:
        """Keep a finding for each row of a query that gives tenant, request, place and detail."""
        self._flush()
        self._connection.execute(
            f"WITH off (tenant, request_id, place, detail) AS ({query}) INSERT INTO findings SELECT '{kind}', "
            "ifnull(tenant, ''), ifnull(request_id, ''), ifnull(place, ''), ifnull(detail, '') FROM off",
            parameters,
        )

    def index(self) -> None:
        """Make what was read quick to ask. Call it once, when everything is there."""
        self._flush()
        self._connection.executescript(_INDEXES)

    def ask(self, query: str, parameters: dict[str, Any] | None = None) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one at a time."""
        self._flush()
        yield from self._connection.execute(query, parameters or {})

    def change(self, statement: str, parameters: dict[str, Any] | None = None) -> None:
        """Run a statement that gives no rows."""
        self._flush()
        self._connection.execute(statement, parameters or {})

    def findings(self, kind: str | None = None, limit: int = -1) -> Iterator[Finding]:
        """The findings, of a kind where one is named, in order."""
        where = "" if kind is None else "WHERE kind = :kind"
        query = f"SELECT DISTINCT * FROM findings {where} ORDER BY kind, tenant, request_id, place LIMIT :limit"
        for row in self.ask(query, {"kind": kind, "limit": limit}):
            yield Finding(*row)

    def counts(self) -> Counter[str]:
        """How many findings there are of each kind."""
        query = "SELECT kind, count(*) FROM (SELECT DISTINCT * FROM findings) GROUP BY kind ORDER BY kind"
        return Counter(dict(self.ask(query)))

    def _flush(self) -> None:
        for table in list(self._waiting):
            self._write(table)

    def _write(self, table: str) -> None:
        rows = self._waiting.pop(table)
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self._connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


# Times are microseconds since 1970.
_TABLES = """
CREATE TABLE requests (tenant, request_id, own_id, accepted, ttl_ms, place);
CREATE TABLE events (kind, event_id, cause, tenant, request_id, accepted, digest, place);
CREATE TABLE answers (
    tenant, request_id, run, revision, event_id, cause, supersedes, code, accepted, decided, prints, at, print,
    imported, place);
CREATE TABLE scores (answer_id, tenant, request_id, place, name, value, failure_code, explanation);
CREATE TABLE letters (place, request_id);
CREATE TABLE broken (place, at);
CREATE TABLE finals (tenant, request_id, revision, event_id, decided, print);
CREATE TABLE copies (owner, tenant, request_id, event_id, at, digest, place);
CREATE TABLE findings (kind, tenant, request_id, place, detail);
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS requests_id ON requests (request_id, tenant);
CREATE INDEX IF NOT EXISTS requests_own ON requests (own_id);
CREATE INDEX IF NOT EXISTS events_id ON events (event_id, kind);
CREATE INDEX IF NOT EXISTS answers_request ON answers (request_id, tenant, revision);
CREATE INDEX IF NOT EXISTS finals_request ON finals (request_id, tenant, revision);
CREATE INDEX IF NOT EXISTS answers_id ON answers (event_id);
CREATE INDEX IF NOT EXISTS letters_place ON letters (place);
CREATE INDEX IF NOT EXISTS letters_request ON letters (request_id);
"""
