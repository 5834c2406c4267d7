"""The ledger in Postgres: table ``ledger``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from processors.account.entry import Booked, Entry, Said, Spender, by_name
from processors.account.rule import Standing, add
from processors.postgres import Connection, Database, away, conflict
from schemas.errors import DependencyDownError, PoisonError


class PostgresLedger:
    """A ``Ledger`` that every worker shares."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, entries: Sequence[Entry]) -> Sequence[Booked]:
        async def work(connection: Connection) -> list[Booked]:
            return await _record(connection, entries)

        try:
            return await self._database.run(work)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            raise PoisonError(f"the ledger can not keep a cost event: {type(error).__name__}") from error
        except psycopg.ProgrammingError as error:
            if away(error) or conflict(error):
                raise
            # No table, or no right to it. That is for an operator to mend: no event is to blame for it.
            raise DependencyDownError("postgres", f"{_first_line(error)}; run `headrace migrate`") from error


async def _record(connection: Connection, entries: Sequence[Entry]) -> list[Booked]:
    firsts: dict[str, int] = {}
    for number, entry in enumerate(entries):
        firsts.setdefault(entry.attempt_id, number)
    # In one order whoever writes, so that two workers can not wait for each other.
    values = [_columns(entries[number]) for _, number in sorted(firsts.items())]
    cursor = await connection.execute(_INSERT, (orjson.dumps(values, default=str).decode(),))
    new = {row[0] for row in await cursor.fetchall()}
    booked: list[Booked] = ["new"] * len(entries)
    further = [n for n, entry in enumerate(entries) if entry.attempt_id not in new or firsts[entry.attempt_id] != n]
    if further:
        for number, outcome in (await _add(connection, entries, further)).items():
            booked[number] = outcome
    return booked


async def _add(connection: Connection, entries: Sequence[Entry], further: Sequence[int]) -> dict[int, Booked]:
    """Book events of attempts that are in the ledger; their rows stay locked until the transaction ends."""
    by_attempt: defaultdict[str, list[int]] = defaultdict(list)
    for number in further:
        by_attempt[entries[number].attempt_id].append(number)
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_LOCK, (sorted(by_attempt),))
        rows = await cursor.fetchall()
    booked: dict[int, Booked] = {}
    for row in rows:
        attempt_id = row["attempt_id"]
        before = after = standing_of(row)
        for number in by_attempt[attempt_id]:
            after, booked[number] = add(attempt_id, after, entries[number].said)
        if after is not before:
            parameters = by_name(after.said) | {
                "attempt_id": attempt_id,
                "conflicts": after.conflicts,
                "history": Jsonb([_told(said) for said in after.history]),
                "usage_details": Jsonb(dict(after.said.usage_details)),
            }
            await connection.execute(_UPDATE, parameters)
    return booked


# What events did not say from the start, and what they then mean.
_ADDED: Mapping[str, Any] = {"price_version": "", "error_code": None, "correction": "", "usage_details": {}}


def _columns(entry: Entry) -> dict[str, Any]:
    return {"attempt_id": entry.attempt_id} | by_name(entry.spender) | _as_json(entry.said)


def _as_json(said: Said) -> dict[str, Any]:
    """What is said, with amounts and times as text: JSON has no decimals."""
    return by_name(said) | {
        "amount_usd": f"{said.amount_usd:f}",
        "avoided_cost_usd": f"{said.avoided_cost_usd:f}",
        "incurred_at": said.incurred_at.astimezone(UTC).isoformat(),
    }


def _told(said: Said) -> dict[str, Any]:
    """One event in a row's history. What was added to events later is there only where it says something."""
    return {name: value for name, value in _as_json(said).items() if name not in _ADDED or value != _ADDED[name]}


def standing_of(row: Mapping[str, Any]) -> Standing:
    """How the attempt of a row stands: its history, or what it shows where it has one event."""
    shown = Said(**{name: row[name] for name in _SAID})
    history = tuple(_from_json(values) for values in row["history"])
    return Standing(shown, row["conflicts"], history or (shown,))


def _from_json(values: Mapping[str, Any]) -> Said:
    changed = {name: Decimal(values[name]) for name in ("amount_usd", "avoided_cost_usd")}
    return Said(**{**values, **changed, "incurred_at": datetime.fromisoformat(values["incurred_at"])})


def _first_line(error: psycopg.Error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_SAID = tuple(field.name for field in fields(Said))
_SPENDER = tuple(field.name for field in fields(Spender))
_TYPES = {
    "ordinal": "integer",
    "amount_usd": "numeric",
    "avoided_cost_usd": "numeric",
    "incurred_at": "timestamptz",
    "usage_details": "jsonb",
    **{name: "bigint" for name in _SAID if name.endswith("_tokens")},
    **dict.fromkeys(("usage_estimated", "estimated", "upper_bound"), "boolean"),
}
_NAMES = ("attempt_id", *_SPENDER, *_SAID)

# What is written here was paid for: it has to be on disk before its event is acknowledged.
_INSERT = f"""
WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true))
INSERT INTO ledger ({", ".join(_NAMES)})
SELECT {", ".join(f"entry.{name}" for name in _NAMES)}
FROM durable, json_to_recordset(%s::json) AS entry ({", ".join(f"{n} {_TYPES.get(n, 'text')}" for n in _NAMES)})
ON CONFLICT (attempt_id) DO NOTHING
RETURNING attempt_id
"""
_LOCK = f"""
SELECT attempt_id, {", ".join(_SAID)}, conflicts, history FROM ledger
WHERE attempt_id = ANY(%s) ORDER BY attempt_id FOR UPDATE
"""
_UPDATE = f"""
UPDATE ledger SET {", ".join(f"{name} = %({name})s" for name in _SAID)}, conflicts = %(conflicts)s,
    history = %(history)s, changed_at = clock_timestamp()
WHERE attempt_id = %(attempt_id)s
"""
