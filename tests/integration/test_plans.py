"""What is asked again and again of large tables goes by an index, however many rows there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from processors.journal.late import _UNTOLD
from processors.spending.postgres import _TAKE
from streams.draining import _OPEN
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

ROWS = 20_000


@pytest.fixture(scope="module")
def connection(stack: TestStack) -> Iterator[psycopg.Connection[Any]]:
    """A transaction in which the journal and the book are large and nearly all of it is over; it is rolled back."""
    with psycopg.connect(stack.postgres_dsn) as opened:
        opened.execute(
            "INSERT INTO calls (call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash, input, state,"
            " result, lease_until) SELECT gen_random_uuid(), 't' || mod(n, 50), 'plans', '', n::text, 'completion', 0,"
            " '', '', CASE WHEN mod(n, 1000) = 0 THEN 'calling' ELSE 'done' END, '', now() + interval '1 hour'"
            " FROM generate_series(1, %s) AS n",
            (ROWS,),
        )
        opened.execute(
            "INSERT INTO attempts (attempt_id, call_id, ordinal, epoch, route, deployment, provider, model,"
            " price_source, account, stage_version, control_offset, bound_prompt_tokens, bound_completion_tokens,"
            " upper_bound_usd, state, started_at, ended_at, cost_usd)"
            " SELECT gen_random_uuid(), call_id, 0, 1, 'default', '', '', '', '', '', '', -1, 0, 0, 9,"
            " CASE state WHEN 'calling' THEN 'calling' ELSE 'done' END, now(), now(), 0"
            " FROM calls WHERE lane = 'plans'"
        )
        opened.execute(
            "INSERT INTO spends (spender, ordinal, lane, tenant, asked, due_at, told_at)"
            " SELECT gen_random_uuid(), 0, 'plans', '', '', now(), now() FROM generate_series(1, %s)",
            (ROWS,),
        )
        opened.execute("ANALYZE calls, attempts, spends")
        yield opened
        opened.rollback()


@pytest.mark.parametrize(
    ("statement", "parameters", "index"),
    [
        (_OPEN, {"lane": "plans", "tenant": None, "route": "default"}, "calls_open"),
        (_OPEN, {"lane": "plans", "tenant": "t7", "route": None}, "calls_open"),
        (_UNTOLD, {"lane": "plans", "limit": 200}, "attempts_late_untold"),
        (_TAKE, {"lane": "plans", "limit": 200, "hold_s": 30.0}, "spends_untold"),
    ],
)
def test_it_goes_by_its_index(
    connection: psycopg.Connection[Any], statement: str, parameters: dict[str, Any], index: str
) -> None:
    rows = connection.execute(f"EXPLAIN {statement}".encode(), parameters).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert index in plan, plan
    assert "Seq Scan on calls" not in plan and "Seq Scan on attempts" not in plan, plan
