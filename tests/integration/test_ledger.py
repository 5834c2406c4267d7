"""The ledger in Postgres: the same rule, under workers that write at the same time."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from processors.account.ledger import FakeLedger
from processors.account.postgres import PostgresLedger
from processors.postgres import Database
from schemas.errors import DependencyDownError, PoisonError
from schemas.records import Usage
from tests.support.costs import correction, cost, entry
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


def rows(stack: TestStack, lane: str) -> dict[str, dict[str, Any]]:
    with psycopg.connect(stack.postgres_dsn, row_factory=dict_row) as connection:
        found = connection.execute("SELECT * FROM ledger WHERE lane = %s", (lane,)).fetchall()
    return {row["attempt_id"]: row for row in found}


async def test_a_row_holds_what_the_event_said(stack: TestStack, database: Database, lane: str) -> None:
    usage = Usage(
        prompt_tokens=9, completion_tokens=8, cached_prompt_tokens=7, cache_write_tokens=1, reasoning_tokens=5
    )
    event = cost(f"{lane}-1", "0.000000000001", lane=lane, usage=usage, user="u\0", team="search", response_id="r")
    assert await PostgresLedger(database).record([entry(event)]) == ["new"]
    row = rows(stack, lane)[f"{lane}-1"]
    assert row["amount_usd"] == Decimal("0.000000000001")
    assert (row["prompt_tokens"], row["cached_prompt_tokens"], row["cache_write_tokens"]) == (9, 7, 1)
    assert (row["user_id"], row["team"], row["response_id"]) == ("u\ufffd", "search", "r")
    assert row["incurred_at"] == event.incurred_at
    assert row["history"] == []


async def test_the_table_follows_the_rule(stack: TestStack, database: Database, lane: str) -> None:
    unknown = cost(f"{lane}-1", "0.90", lane=lane, state="unknown", upper_bound=True)
    late = correction(unknown, "0.25")
    other = cost(f"{lane}-2", "0.10", lane=lane)
    dearer = cost(f"{lane}-2", "0.20", lane=lane)
    events = [entry(one) for one in (unknown, other, unknown, late, dearer, late, other)]
    ledger, fake = PostgresLedger(database), FakeLedger()
    booked = [*await ledger.record(events[:4]), *await ledger.record(events[4:]), *await ledger.record(events)]
    assert booked == [*await fake.record(events[:4]), *await fake.record(events[4:]), *await fake.record(events)]
    assert booked[:7] == ["new", "new", "repeated", "corrected", "conflict", "repeated", "repeated"]
    assert set(booked[7:]) == {"repeated"}
    for attempt_id, row in rows(stack, lane).items():
        _, standing = fake.rows[attempt_id]
        assert row["amount_usd"] == standing.said.amount_usd
        assert (row["state"], row["conflicts"]) == (standing.said.state, standing.conflicts)
        assert [Decimal(one["amount_usd"]) for one in row["history"]] == [one.amount_usd for one in standing.history]


async def test_workers_that_write_the_same_events_at_once_lose_none(
    stack: TestStack, database: Database, lane: str
) -> None:
    events = []
    for number in range(40):
        unknown = cost(f"{lane}-{number}", "0.90", lane=lane, state="unknown")
        events += [entry(unknown), entry(correction(unknown, "0.25"))]
    ledger = PostgresLedger(database)
    # Parts that overlap, each in another order.
    parts = [events[start::step] for step in (2, 3, 5) for start in range(step)]
    await asyncio.gather(*(ledger.record(part[::-1] if number % 2 else part) for number, part in enumerate(parts)))
    found = rows(stack, lane)
    assert len(found) == 40
    assert {row["amount_usd"] for row in found.values()} == {Decimal("0.25")}
    assert {row["state"] for row in found.values()} == {"done"}


async def test_an_amount_that_no_column_holds_is_poison_and_takes_nothing_with_it(
    stack: TestStack, database: Database, lane: str
) -> None:
    ledger = PostgresLedger(database)
    with pytest.raises(PoisonError):
        await ledger.record([entry(cost(f"{lane}-1", lane=lane)), entry(cost(f"{lane}-2", "1E+30", lane=lane))])
    assert rows(stack, lane) == {}


async def test_without_its_table_the_ledger_waits_and_says_what_to_do(stack: TestStack, lane: str) -> None:
    """An event must not be given up because a migration has not run yet."""
    elsewhere = psycopg.conninfo.make_conninfo(stack.postgres_dsn, options="-c search_path=pg_catalog")
    bare = await Database.open(elsewhere)
    try:
        with pytest.raises(DependencyDownError, match="headrace migrate"):
            await PostgresLedger(bare).record([entry(cost(f"{lane}-1", lane=lane))])
    finally:
        await bare.close()
