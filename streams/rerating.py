"""Booking changed prices: corrections are decided in Postgres, published on ``costs`` and booked by ``account``.

A correction's row is committed before its event is published, and a row of the ledger has one open correction at most.
So a run that was cut off, or that another one overtakes, publishes the same events again, and nothing is booked twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from processors.account.entry import Said, Spender
from processors.account.rerate import Booked, Correction, correct, priced
from processors.account.rule import RERATE
from processors.postgres import Connection, Database
from processors.prices import PriceTable
from schemas.codec import Codec
from schemas.errors import ConfigurationError
from schemas.records import Cost

PAGE = 500
POLL_S = 0.2

# Sends cost events and returns when the broker has acknowledged them all. Blocking; raises ``DependencyDownError``.
Publish = Callable[[Sequence[Cost]], None]
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which rows: of one lane, from ``since`` and before ``until``, by when the attempt ended."""

    lane: str
    since: datetime
    until: datetime | None = None
    tenant: str | None = None


@dataclass(slots=True)
class Tally:
    """Rows and sums of one model, in US dollars."""

    rows: int = 0
    changed: int = 0
    old_usd: Decimal = Decimal(0)
    corrections_usd: Decimal = Decimal(0)
    new_usd: Decimal = Decimal(0)

    def add(self, old: Decimal, new: Decimal, correction: Decimal) -> None:
        self.rows += 1
        self.changed += correction != 0
        self.old_usd += old
        self.new_usd += new
        self.corrections_usd += correction


@dataclass(slots=True)
class Rerated:
    """What a run did. ``by_model`` holds the rows that the price file knows; ``unpriced`` counts the others.

    ``again``: corrections of an earlier run that had not been booked. ``open``: corrections that still are not.
    ``ledger_usd``: what the ledger says now of the rows that were corrected, whose sum should be ``expected_usd``.
    """

    by_model: defaultdict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    unpriced: int = 0
    again: int = 0
    open: int = 0
    expected_usd: Decimal = Decimal(0)
    ledger_usd: Decimal = Decimal(0)

    @property
    def total(self) -> Tally:
        """The sums over all models."""
        whole = Tally()
        for one in self.by_model.values():
            for name in ("rows", "changed", "old_usd", "corrections_usd", "new_usd"):
                setattr(whole, name, getattr(whole, name) + getattr(one, name))
        return whole

    @property
    def adds_up(self) -> bool:
        """Whether old and corrections make new, for every model."""
        return all(one.old_usd + one.corrections_usd == one.new_usd for one in self.by_model.values())

    @property
    def booked(self) -> bool:
        """Whether the ledger has every correction, and shows the new amounts."""
        return self.open == 0 and self.ledger_usd == self.expected_usd


class Rerate:
    """One run. Use it once."""

    def __init__(
        self, database: Database, codec: Codec, publish: Publish, *, table: PriceTable, scope: Scope, page: int = PAGE
    ) -> None:
        self._database, self._codec, self._publish = database, codec, publish
        self._table, self._scope, self._page = table, scope, page
        self._found, self._events = Rerated(), list[str]()

    async def run(self, *, dry_run: bool, wait_s: float, advance: Advance = lambda _: None) -> Rerated:
        """Correct every row in scope, and wait up to ``wait_s`` until the ledger has it.

        A dry run writes and publishes nothing. Blocks on Postgres and the broker; raises ``DependencyDownError``, and
        ``ConfigurationError`` for a database that lacks the tables.
        """
        try:
            if not dry_run:
                await self._resume(wait_s)
            await self._pages(dry_run=dry_run, advance=advance)
            if not dry_run:
                await self._settle(wait_s)
        except psycopg.errors.UndefinedTable:
            raise ConfigurationError("the database has no table for corrections; run `headrace migrate`") from None
        return self._found

    async def _resume(self, wait_s: float) -> None:
        """Publish again what an earlier run decided and nobody booked, with the same bytes."""
        await self._mark()
        rows = await self._database.execute(_OPEN, {"lane": self._scope.lane})
        if rows:
            self._found.again = len(rows)
            await self._send([self._codec.decode(value, Cost) for (value,) in rows])
            await self._await(wait_s)

    async def _pages(self, *, dry_run: bool, advance: Advance) -> None:
        after = (datetime.min.replace(tzinfo=UTC), "")
        while True:
            async with self._database.transaction() as connection:
                rows = await self._read(connection, after, lock=not dry_run)
                corrections = [one for row in rows if (one := self._corrected(row)) is not None]
                if not dry_run:
                    corrections = await self._decide(connection, corrections)
            if not dry_run:
                await self._send([one.event for one in corrections])
                self._events += [one.event.meta.event_id for one in corrections]
                self._found.expected_usd += sum((one.new_usd for one in corrections), Decimal(0))
            advance(len(rows))
            if len(rows) < self._page:
                return
            after = (rows[-1].said.incurred_at, rows[-1].attempt_id)

    def _corrected(self, row: Booked) -> Correction | None:
        found = priced(row, self._table)
        if found is None:
            self._found.unpriced += 1
            return None
        correction = correct(row, self._table, now=self._now)
        changed = Decimal(0) if correction is None else correction.event.amount_usd
        tally = self._found.by_model[f"{row.spender.provider}/{row.spender.model}"]
        tally.add(row.said.amount_usd, found[0], changed)
        return correction

    async def _read(self, connection: Connection, after: tuple[datetime, str], *, lock: bool) -> list[Booked]:
        scope = self._scope
        parameters = {
            "lane": scope.lane,
            "since": scope.since,
            "until": scope.until,
            "tenant": scope.tenant,
            "after_time": after[0],
            "after_id": after[1],
            "page": self._page,
        }
        async with connection.cursor(row_factory=dict_row) as cursor:
            # What is corrected must not change before its correction is decided.
            await cursor.execute(_PAGE + (_LOCKED if lock else ""), parameters)
            rows = await cursor.fetchall()
        if rows:
            self._now: datetime = rows[0]["now"].astimezone(UTC)
        return [_booked(row) for row in rows]

    async def _decide(self, connection: Connection, corrections: Sequence[Correction]) -> list[Correction]:
        """Commit corrections before they are published."""
        for one in corrections:
            event = one.event
            values = {
                "event_id": event.meta.event_id,
                "attempt_id": event.attempt_id,
                "lane": event.meta.lane,
                "request_id": event.meta.request_id,
                "old_usd": one.old_usd,
                "correction_usd": event.amount_usd,
                "new_usd": one.new_usd,
                "price_source": event.price_source,
                "price_version": event.price_version,
                "event": self._codec.encode(event),
            }
            await connection.execute(_DECIDE, values)
        return list(corrections)

    async def _send(self, events: Sequence[Cost]) -> None:
        if events:
            await asyncio.to_thread(self._publish, events)

    async def _settle(self, wait_s: float) -> None:
        await self._await(wait_s)
        if self._events:
            [(amount,)] = await self._database.execute(_NOW, {"events": self._events})
            self._found.ledger_usd = amount

    async def _await(self, wait_s: float) -> None:
        """Wait until the ledger has every correction, but no longer than this."""
        ends = time.monotonic() + wait_s
        while True:
            self._found.open = await self._mark()
            if not self._found.open or time.monotonic() >= ends:
                return
            await asyncio.sleep(POLL_S)

    async def _mark(self) -> int:
        """Note which corrections the ledger has; how many it lacks."""
        await self._database.execute(_MARK, {"lane": self._scope.lane})
        [(left,)] = await self._database.execute(_LEFT, {"lane": self._scope.lane})
        return int(left)


def _booked(row: dict[str, Any]) -> Booked:
    values = {name: row[name] for name in _SAID}
    return Booked(row["attempt_id"], Spender(**{name: row[name] for name in _SPENDER}), Said(**values), row["rerated"])


_SAID = tuple(one.name for one in fields(Said))
_SPENDER = tuple(one.name for one in fields(Spender))
# What a recorded response served was no call; the open one of a row comes first.
_PAGE: LiteralString = f"""
SELECT attempt_id, {", ".join(_SPENDER)}, {", ".join(_SAID)}, clock_timestamp() AS now,
    (SELECT count(*) FROM jsonb_array_elements(history) AS said WHERE said->>'correction' = '{RERATE}')::int AS rerated
FROM ledger
WHERE lane = %(lane)s AND served_by = 'model' AND incurred_at >= %(since)s
  AND (%(until)s::timestamptz IS NULL OR incurred_at < %(until)s)
  AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)
  AND (incurred_at, attempt_id) > (%(after_time)s::timestamptz, %(after_id)s::text)
  AND NOT EXISTS (SELECT FROM rerates WHERE rerates.attempt_id = ledger.attempt_id AND booked_at IS NULL)
ORDER BY incurred_at, attempt_id LIMIT %(page)s
"""
_LOCKED: LiteralString = " FOR UPDATE"
_DECIDE: LiteralString = """
INSERT INTO rerates (event_id, attempt_id, lane, request_id, old_usd, correction_usd, new_usd, price_source,
    price_version, event)
VALUES (%(event_id)s, %(attempt_id)s, %(lane)s, %(request_id)s, %(old_usd)s, %(correction_usd)s, %(new_usd)s,
    %(price_source)s, %(price_version)s, %(event)s)
"""
_MARK: LiteralString = """
UPDATE rerates SET booked_at = clock_timestamp() FROM ledger
WHERE rerates.booked_at IS NULL AND rerates.lane = %(lane)s AND ledger.attempt_id = rerates.attempt_id
  AND ledger.history @> jsonb_build_array(jsonb_build_object('event_id', rerates.event_id))
"""
_LEFT: LiteralString = "SELECT count(*) FROM rerates WHERE booked_at IS NULL AND lane = %(lane)s"
_OPEN: LiteralString = "SELECT event FROM rerates WHERE booked_at IS NULL AND lane = %(lane)s ORDER BY decided_at"
_NOW: LiteralString = """
SELECT coalesce(sum(ledger.amount_usd), 0) FROM ledger JOIN rerates USING (attempt_id)
WHERE rerates.event_id = ANY(%(events)s)
"""
