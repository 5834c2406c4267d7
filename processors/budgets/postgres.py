"""Budgets in Postgres: tables ``budgets`` and ``budget_reservations``, by the database's clock.

Rows of ``budgets`` are locked first, in the order of their keys, and reservations under them: so no two transactions
wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb

from processors.budgets import sql
from processors.budgets.port import period_of
from processors.budgets.rule import Budget, Crossed, Held, Part, Reserved, Standing, crossed, decide
from processors.postgres import Connection, Database

# Of the reservations that were left behind, settled in one pass.
SWEPT_AT_A_TIME = 100

Key = tuple[str, str]
_BudgetKey = tuple[str, str, datetime]
_Row = tuple[datetime, str, Decimal, list[dict[str, Any]]]


class PostgresBudgets:
    """A ``Budgets`` that every worker shares."""

    def __init__(self, database: Database, budgets: Sequence[Budget]) -> None:
        self._database = database
        self._by_name = {budget.name: budget for budget in budgets}

    async def reserve(
        self, call_id: str, parts: Sequence[Part], amount: Decimal, *, hold_s: float, samples: Sequence[str] = ()
    ) -> Reserved:
        async def work(connection: Connection) -> Reserved:
            now = await _now(connection)
            periods = {_key(part): period_of(part.budget.period, now) for part in parts}
            known, standings = await _locked(
                connection, call_id, {(*key, start) for key, (start, _) in periods.items()}
            )
            needs, raises = [], []
            for part in parts:
                key = _key(part)
                reserved = known.get(key)
                start, end = periods[key]
                if reserved is not None and reserved[1] == "open":
                    spent, held = standings[*key, reserved[0]]
                    if reserved[2] < amount:
                        end = period_of(part.budget.period, reserved[0])[1]
                        others = held - reserved[2]
                        raises.append(
                            (part, Standing(period_start=reserved[0], period_end=end, spent=spent, reserved=others))
                        )
                    continue
                spent, held = standings[*key, start]
                if reserved is not None and reserved[0] == start:
                    spent -= reserved[2]
                needs.append((part, Standing(period_start=start, period_end=end, spent=spent, reserved=held)))
            outcome = decide(needs, amount)
            if not isinstance(outcome, Held):
                return outcome
            for part, standing in needs:
                await _reopen(connection, call_id, part, known.get(_key(part)), standing, amount)
            raised = decide(raises, amount)
            if isinstance(raised, Held):
                for part, standing in raises:
                    await _raise(connection, call_id, part, standing, before=known[_key(part)][2], amount=amount)
            else:
                outcome = Held(short=raised)
            holding = {"call_id": call_id, "hold_s": hold_s, "samples": list(samples)}
            await connection.execute(sql.HOLD, holding)
            return outcome

        return await self._database.run(work)

    async def settle(self, call_id: str, spent: Decimal) -> Sequence[Crossed]:
        async def work(connection: Connection) -> Sequence[Crossed]:
            known = await _reservations(connection, call_id)
            if all(state == "settled" and amount == spent for _, state, amount, _ in known.values()):
                return [_from_json(one) for *_, told in known.values() for one in told]
            now = await _now(connection)
            known, standings = await _locked(connection, call_id, set())
            told: list[Crossed] = []
            for key, (start, state, amount, before) in known.items():
                mine = [_from_json(one) for one in before]
                if state == "open" and key[0] in self._by_name:
                    earlier = standings[*key, start][0]
                    mine += crossed(Part(self._by_name[key[0]], key[1]), earlier, earlier + spent, now, told=mine)
                freed = amount if state == "open" else Decimal(0)
                added = spent if state == "open" else spent - amount
                await _settle(connection, call_id, key, start, spent=spent, freed=freed, added=added, told=mine)
                told += mine
            return told

        return await self._database.run(work)

    async def sweep(self, *, renew_s: float = 30.0) -> int:
        """Settle what was left behind by the journal: what its attempts cost, or the most that they can have cost.

        A call that somebody is still making holds its reservation for another ``renew_s``. How many were settled.
        Blocks on Postgres; raises ``DependencyDownError``.
        """
        rows = await self._database.execute(sql.LEFT_BEHIND, {"limit": SWEPT_AT_A_TIME})
        settled = 0
        for call_id, live, spent in rows:
            if live:
                await self._database.execute(sql.HOLD, {"call_id": call_id, "hold_s": renew_s, "samples": []})
                continue
            await self.settle(str(call_id), spent)
            settled += 1
        return settled


def _key(part: Part) -> Key:
    return part.budget.name, part.scope


async def _now(connection: Connection) -> datetime:
    row = await (await connection.execute("SELECT clock_timestamp()")).fetchone()
    assert row is not None
    now: datetime = row[0]
    return now.astimezone(UTC)


async def _reservations(connection: Connection, call_id: str) -> dict[Key, _Row]:
    cursor = await connection.execute(sql.RESERVATIONS, {"call_id": call_id})
    rows = await cursor.fetchall()
    return {(budget, scope): (start.astimezone(UTC), *rest) for budget, scope, start, *rest in rows}


async def _locked(
    connection: Connection, call_id: str, rows: set[_BudgetKey]
) -> tuple[dict[Key, _Row], dict[_BudgetKey, tuple[Decimal, Decimal]]]:
    """A call's reservations, under the lock of their budgets' rows and of ``rows``."""
    while True:
        wanted = rows | {(*key, start) for key, (start, *_) in (await _reservations(connection, call_id)).items()}
        standings = await _lock(connection, wanted)
        known = await _reservations(connection, call_id)
        if all((*key, start) in standings for key, (start, *_) in known.items()):
            return known, standings


async def _lock(connection: Connection, rows: set[_BudgetKey]) -> dict[_BudgetKey, tuple[Decimal, Decimal]]:
    ordered = sorted(rows)
    parameters = {
        "budgets": [budget for budget, _, _ in ordered],
        "scopes": [scope for _, scope, _ in ordered],
        "starts": [start for *_, start in ordered],
    }
    await connection.execute(sql.MAKE, parameters)
    cursor = await connection.execute(sql.LOCK, parameters)
    found = await cursor.fetchall()
    return {(budget, scope, start.astimezone(UTC)): (spent, held) for budget, scope, start, spent, held in found}


async def _reopen(
    connection: Connection, call_id: str, part: Part, known: _Row | None, standing: Standing, amount: Decimal
) -> None:
    budget, scope = _key(part)
    keys = {"budget": budget, "scope": scope}
    if known is not None:
        given_back = {"start": known[0], "spent": -known[2], "reserved": Decimal(0)}
        await connection.execute(sql.MOVE, {**keys, **given_back})
    reserved = {"start": standing.period_start, "spent": Decimal(0), "reserved": amount}
    await connection.execute(sql.MOVE, {**keys, **reserved})
    opened = {"call_id": call_id, "start": standing.period_start, "amount": amount}
    await connection.execute(sql.OPEN, {**keys, **opened})


async def _raise(
    connection: Connection, call_id: str, part: Part, standing: Standing, *, before: Decimal, amount: Decimal
) -> None:
    """Reserve more for a call that has reserved ``before``."""
    budget, scope = _key(part)
    keys = {"budget": budget, "scope": scope, "start": standing.period_start}
    await connection.execute(sql.MOVE, {**keys, "spent": Decimal(0), "reserved": amount - before})
    await connection.execute(sql.OPEN, {**keys, "call_id": call_id, "amount": amount})


async def _settle(
    connection: Connection,
    call_id: str,
    key: Key,
    start: datetime,
    *,
    spent: Decimal,
    freed: Decimal,
    added: Decimal,
    told: Sequence[Crossed],
) -> None:
    keys = {"budget": key[0], "scope": key[1]}
    await connection.execute(sql.MOVE, {**keys, "start": start, "spent": added, "reserved": -freed})
    crossing = Jsonb([_as_json(one) for one in told])
    await connection.execute(sql.SETTLE, {**keys, "call_id": call_id, "amount": spent, "crossed": crossing})


def _as_json(one: Crossed) -> dict[str, Any]:
    return {name: value if isinstance(value, str) else str(value) for name, value in asdict(one).items()}


def _from_json(given: dict[str, Any]) -> Crossed:
    one = Crossed(**given)
    return replace(
        one,
        limit_usd=Decimal(one.limit_usd),
        spent_usd=Decimal(one.spent_usd),
        at=datetime.fromisoformat(str(one.at)),
    )
