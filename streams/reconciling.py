"""Gathers what the books are reconciled from: ledger, journal and finals, cost events and answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from processors.account.entry import Spender, entry_of
from processors.account.postgres import standing_of
from processors.account.reconcile import Event, Evidence, Journaled, Named, Row, Told
from processors.event import Incoming
from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import ConfigurationError, PoisonError
from schemas.records import Answer, Cost
from streams.answers import decoded
from streams.reading import Entry, TopicReader
from streams.settings import Settings
from streams.topics import topic_name

# Between the broker's clock and the database's.
CLOCKS = timedelta(minutes=10)
# A call that began before the stretch may end in it; one that went by batch, a day after.
LONGEST_CALL = timedelta(hours=1)
QUERY_TIMEOUT_S = 300.0
ROWS_AT_ONCE = 2_000

# As long ago as a table or topic can hold anything: "for ever" in days.
_ALWAYS_DAYS = 36_500.0

Advance = Callable[[str, int], None]
Wanted = Callable[[str], bool]
_Tables = tuple[datetime, list[Row], list[Journaled], frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Gathered:
    """The evidence, and how many records of the two topics can not be read."""

    evidence: Evidence
    unreadable: int


def gather(
    settings: Settings,
    codec: Codec,
    *,
    lane: str,
    since: datetime,
    grace_s: float,
    advance: Advance = lambda _what, _count: None,
    wanted: Wanted = lambda _request_id: True,
) -> Gathered:
    """Read everything of a lane since then; what is younger than ``grace_s`` is not judged.

    With ``wanted``, only of requests whose id it takes: nothing is compared across requests, so a long stretch may be
    read in parts.
    Blocks on Postgres and the broker. About 2 KB of memory an attempt. Raises ``DependencyDownError``, and
    ``ConfigurationError`` for a lane without topics or a database without tables.
    """
    now, rows, attempts, finals = asyncio.run(_tables(settings, lane, since, wanted))
    advance("rows of the ledger", len(rows))
    events, answers, unreadable = _topics(settings, codec, lane, since, advance, wanted)
    retention = settings.retention.resolved()
    evidence = Evidence(
        since=since,
        until=now - timedelta(seconds=grace_s),
        costs_from=_from(now, retention.topics["costs"]),
        journal_from=_from(now, retention.tables["calls"]),
        rows=rows,
        events=events,
        attempts=attempts,
        answers=answers,
        finals=finals,
    )
    return Gathered(evidence, unreadable)


def _from(now: datetime, days: float) -> datetime:
    return now - timedelta(days=min(days, _ALWAYS_DAYS))


async def _tables(settings: Settings, lane: str, since: datetime, wanted: Wanted) -> _Tables:
    dsn = settings.postgres.dsn.get_secret_value()
    database = await Database.open(
        dsn, max_size=1, application_name="headrace-reconcile", statement_timeout_s=QUERY_TIMEOUT_S
    )
    try:
        now = await database.now()
        return now, *await _rows(database, lane, since, wanted)
    except psycopg.errors.UndefinedTable:
        raise ConfigurationError("the database lacks tables; run `headrace migrate`") from None
    finally:
        await database.close()


async def _rows(
    database: Database, lane: str, since: datetime, wanted: Wanted
) -> tuple[list[Row], list[Journaled], frozenset[tuple[str, str]]]:
    parameters = {"lane": lane, "since": since, "begun": since - LONGEST_CALL, "ended": since - CLOCKS}
    async with database.transaction(timeout_s=QUERY_TIMEOUT_S) as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        # Cursors of the server's: what is not wanted is never held.
        async with connection.cursor("ledger", row_factory=dict_row) as cursor:
            cursor.itersize = ROWS_AT_ONCE
            await cursor.execute(_LEDGER, parameters)
            rows = [_row(found) async for found in cursor if wanted(found["request_id"])]
        async with connection.cursor("journal", row_factory=dict_row) as cursor:
            cursor.itersize = ROWS_AT_ONCE
            await cursor.execute(_JOURNAL, parameters)
            attempts = [Journaled(**found) async for found in cursor if wanted(found["request_id"])]
        async with connection.cursor("finals") as plain:
            plain.itersize = ROWS_AT_ONCE
            await plain.execute(_FINALS, parameters)
            finals = frozenset([(tenant, request_id) async for tenant, request_id in plain if wanted(request_id)])
    return rows, attempts, finals


def _row(found: dict[str, Any]) -> Row:
    standing = standing_of(found)
    spender = Spender(**{name: found[name] for name in _SPENDER})
    return Row(found["attempt_id"], spender, standing.said, standing.conflicts, standing.history, found["recorded_at"])


def _topics(
    settings: Settings, codec: Codec, lane: str, since: datetime, advance: Advance, wanted: Wanted
) -> tuple[list[Event], list[Told], int]:
    events: list[Event] = []
    answers: list[Told] = []
    unreadable = 0
    for entry in _entries(settings, lane, since, wanted):
        try:
            record = decoded(codec, entry.value)
            if isinstance(record, Cost):
                told = entry_of(Incoming(record=record, meta=record.meta, raw=b"", appended_at=entry.time))
                events.append(Event(told.attempt_id, told.spender, told.said))
            elif isinstance(record, Answer):
                answers.append(_told(record, entry.time))
        except PoisonError:
            unreadable += 1
        advance("records", 1)
    return events, answers, unreadable


def _entries(settings: Settings, lane: str, since: datetime, wanted: Wanted) -> Iterator[Entry]:
    def of_request(key: bytes | None) -> bool:
        return wanted((key or b"").decode("utf-8", "replace"))

    with TopicReader(settings) as reader:
        for kind in ("costs", "answers"):
            places = reader.places([topic_name(settings.prefix, lane, kind)])
            starts = reader.offsets_at(places, since - CLOCKS)
            stretches = {
                place: type(whole)(max(whole.start, starts[place]), whole.end)
                for place, whole in reader.ends(places).items()
            }
            yield from reader.read(stretches, wanted=of_request)


def _told(answer: Answer, appended_at: datetime) -> Told:
    meta = answer.meta
    return Told(
        tenant=meta.tenant,
        run=meta.run,
        request_id=meta.request_id,
        cost_usd=answer.cost_usd or Decimal(0),
        attempts=tuple(Named(one.attempt_id, one.cost_usd, one.started_at) for one in answer.attempts),
        decided_at=answer.decided_at or appended_at,
    )


_SPENDER = tuple(one.name for one in fields(Spender))
_LEDGER: LiteralString = "SELECT * FROM ledger WHERE lane = %(lane)s AND incurred_at >= %(since)s"
_JOURNAL: LiteralString = """
SELECT attempts.attempt_id::text, tenant, run, request_id, attempts.state, cost_usd, started_at, ended_at,
    late_at,    calls.state AS call_state, calls.updated_at AS call_changed_at, lease_until AS held_until
FROM attempts JOIN calls USING (call_id)
WHERE lane = %(lane)s AND (started_at >= %(begun)s OR ended_at >= %(ended)s OR late_at >= %(ended)s)
"""
_FINALS: LiteralString = "SELECT tenant, request_id FROM finals WHERE lane = %(lane)s AND decided_at >= %(since)s"
