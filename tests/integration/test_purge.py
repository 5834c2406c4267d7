"""Purging on the real Postgres: what is over goes, in batches; what is open, locked, young or kept for ever stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from processors.postgres import Database
from schemas.errors import DependencyDownError
from streams.purging import ADVISORY_LOCK, Purge, Purged, Purger
from streams.retention import FOREVER, TABLES, Retention
from tests.support.commands import Commands
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack
DEFAULTS = Retention.of({}, {}, 7.0)


async def finals(database: Database, lane: str, *ages_days: float) -> None:
    for number, days in enumerate(ages_days):
        await database.execute(
            "INSERT INTO finals (tenant, lane, request_id, revision, event_id, status, answer, decided_at)"
            " VALUES ('acme', %s, %s, 0, 'e', 'answered', '', now() - make_interval(secs => %s))",
            (lane, f"r{number}", days * 86_400),
        )


async def call(database: Database, lane: str, request_id: str, state: str, *, created: int, updated: int) -> None:
    await database.execute(
        """
        WITH made AS (
            INSERT INTO calls (call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash, input, state,
                               result, failure, created_at, updated_at)
            VALUES (gen_random_uuid(), 'acme', %(lane)s, '', %(request_id)s, 'answer', 0, '', '', %(state)s, 'x', '{}',
                    now() - make_interval(days => %(created)s), now() - make_interval(days => %(updated)s))
            RETURNING call_id)
        INSERT INTO attempts (attempt_id, call_id, ordinal, epoch, route, deployment, provider, model, price_source,
            account, stage_version, control_offset, bound_prompt_tokens, bound_completion_tokens, upper_bound_usd,
            state, started_at)
        SELECT gen_random_uuid(), call_id, 0, 1, '', '', '', '', '', '', '', 0, 0, 0, 0, 'calling', now() FROM made
        """,
        {"lane": lane, "request_id": request_id, "state": state, "created": created, "updated": updated},
    )


async def left(database: Database, lane: str, what: LiteralString) -> set[str]:
    return {row[0] for row in await database.execute("SELECT request_id FROM " + what + " WHERE lane = %s", (lane,))}


async def run(purge: Purge, **options: Any) -> dict[str, Purged]:
    return {purged.table: purged async for purged in purge.run(**options)}


def only(*names: str) -> list[Any]:
    return [table for table in TABLES if table.name in names]


async def test_what_is_over_goes_in_batches_and_what_is_young_stays(database: Database, lane: str) -> None:
    await finals(database, lane, 46, 47, 50, 60, 400, 44, 1)
    batches: list[int] = []
    purge = Purge(database, DEFAULTS, batch=2, tables=only("finals"))

    dry = (await run(purge, dry_run=True))["finals"]
    assert dry.rows >= 5 and len(await left(database, lane, "finals")) == 7
    done = (await run(purge, advance=lambda batch: batches.append(batch.rows)))["finals"]

    assert await left(database, lane, "finals") == {"r5", "r6"}
    assert (done.rows, done.outcome, done.oldest) == (dry.rows, "done", dry.oldest)
    assert max(batches) == 2 and sum(batches) == done.rows and batches[-1] < 2
    assert (await run(purge))["finals"].rows == 0


async def test_an_open_call_stays_whatever_its_age_and_attempts_go_with_theirs(database: Database, lane: str) -> None:
    for state in ("reserved", "calling", "done", "failed", "unknown"):
        await call(database, lane, state, state, created=400, updated=400)
    await call(database, lane, "late", "done", created=400, updated=3)

    await run(Purge(database, DEFAULTS, tables=only("calls")))

    assert await left(database, lane, "calls") == {"reserved", "calling", "late"}
    joined: LiteralString = "attempts JOIN calls USING (call_id)"
    assert await left(database, lane, joined) == {"reserved", "calling", "late"}
    orphans = await database.execute("SELECT count(*) FROM attempts WHERE call_id NOT IN (SELECT call_id FROM calls)")
    assert orphans[0][0] == 0


async def test_tombstones_go_and_documents_stay(database: Database, lane: str) -> None:
    for name, deleted in (("gone", True), ("there", False)):
        await database.execute(
            "INSERT INTO documents VALUES (%s, 'n', %s, '', '', '', '', '', 0, %s, 'l', 0, 0, now(),"
            " now() - interval '1 year')",
            (lane, name, deleted),
        )
    await run(Purge(database, DEFAULTS, tables=only("documents")))
    assert await database.execute("SELECT document_id FROM documents WHERE tenant = %s", (lane,)) == [("there",)]


async def test_a_row_that_somebody_holds_is_passed_over(database: Database, lane: str) -> None:
    await finals(database, lane, 50, 50)
    purge = Purge(database, DEFAULTS, tables=only("finals"))
    async with database.transaction() as held:
        await held.execute("SELECT 1 FROM finals WHERE lane = %s AND request_id = 'r0' FOR UPDATE", (lane,))
        await run(purge)
        assert await left(database, lane, "finals") == {"r0"}
    await run(purge)
    assert await left(database, lane, "finals") == set()


async def test_one_process_purges_at_a_time(database: Database, lane: str) -> None:
    await finals(database, lane, 50)
    purge = Purge(database, DEFAULTS, tables=only("finals"))
    async with database.transaction() as other:
        await other.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
        assert (await run(purge))["finals"].outcome == "busy"
        patient = asyncio.ensure_future(run(purge, wait=True))
        assert await left(database, lane, "finals") == {"r0"}
    assert (await patient)["finals"].outcome == "done"
    assert await left(database, lane, "finals") == set()


async def test_for_ever_is_for_ever(database: Database, lane: str) -> None:
    await finals(database, lane, 4000)
    kept = Retention.of({}, {"finals": FOREVER}, 7.0)
    assert (await run(Purge(database, kept, tables=only("finals"))))["finals"].outcome == "kept"
    assert await left(database, lane, "finals") == {"r0"}


async def test_every_declared_table_can_be_purged(database: Database) -> None:
    done = await run(Purge(database, DEFAULTS), dry_run=False)
    assert {purged.outcome for purged in done.values()} == {"done"}, done


async def test_the_background_job_goes_on_after_a_failure(database: Database, lane: str) -> None:
    await finals(database, lane, 50)
    counted: dict[str, int] = {}
    downs: list[DependencyDownError] = []
    cut = [DependencyDownError("postgres", "cut"), psycopg.ProgrammingError("no such column")]

    class Failing(Purge):
        async def run(self, **options: Any) -> AsyncIterator[Purged]:
            if cut:
                raise cut.pop(0)
            async for purged in super().run(**options):
                yield purged
            finished.set()

    finished = asyncio.Event()
    purger = Purger(
        Failing(database, DEFAULTS, tables=only("finals")),
        interval_s=0.01,
        on_purged=lambda table, rows: counted.update({table: counted.get(table, 0) + rows}),
        on_down=downs.append,
    )
    task = asyncio.ensure_future(purger.run())
    await asyncio.wait_for(finished.wait(), 60)
    task.cancel()
    assert not cut and len(downs) == 1
    assert counted["finals"] >= 1 and await left(database, lane, "finals") == set()


def test_the_command_tells_and_deletes(stack: TestStack, lane: str, tmp_path: Path) -> None:
    commands = Commands(stack, lane, tmp_path, ())

    async def old() -> None:
        database = await Database.open(stack.postgres_dsn)
        await finals(database, lane, 50)
        await database.close()

    asyncio.run(old())
    dry = commands.run("purge", "--dry-run", "--json")
    assert dry.code == 0, dry.err
    by_table = {one["table"]: one for one in dry.objects}
    assert list(by_table) == [table.name for table in TABLES]
    assert by_table["finals"]["rows"] >= 1 and not by_table["finals"]["deleted"]
    assert by_table["finals"]["kept_days"] == 45 and by_table["finals"]["oldest"] < by_table["finals"]["before"]

    done = commands.run("purge")
    assert (done.code, done.err) == (0, "")
    assert "finals: " in done.out and "older than 45 days" in done.out
    again = commands.run("purge", "--json")
    assert next(one for one in again.objects if one["table"] == "finals")["rows"] == 0
