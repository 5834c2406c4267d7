"""The whole stream in a lane whose calls go by batch: submitted, killed in the middle of the batch, answered once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from schemas.records import Answer, Cost
from tests.faults.evidence import read_topics
from tests.faults.pipeline import Scene, scene
from tests.faults.traffic import Publisher
from tests.faults.worker import ROOT, WorkerProcess
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

STAGES = ("admit", "enrich", "complete", "filter", "account")
REQUESTS = ("one", "two", "three", "four")
# Each ends a life: the batch is made, and nobody noted its id; a reply is at hand, and nothing is booked.
KILLS = ("after_batch_create", "after_batch_adoption")
DEADLINE_S = 180.0


@pytest.fixture(scope="module")
def where(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    lane = f"k{time.time_ns() % 10**8:x}"
    # One batch of all of them, however long they take to come.
    batch = {"lanes": [lane], "max_requests": len(REQUESTS), "max_wait_s": 600.0, "poll_s": 0.2}
    changes: dict[str, Any] = {
        "deployments": {"fake": {"batch": batch, "price": {"prompt": "1000", "completion": "1000"}}},
        "budgets": {lane: {"period": "day", "hard_usd": 1000}},
    }
    with scene(stack, tmp_path_factory.mktemp("batches"), lane, **changes) as made:
        yield made


def headrace(where: Scene, *arguments: str) -> str:
    """What a command prints; it has to end well."""
    command = [sys.executable, "-m", "streams", *arguments]
    env = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")} | dict(where.env)
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_worker_killed_during_a_batch_loses_nothing_pays_once_and_leaks_no_budget(
    where: Scene, tmp_path: Path
) -> None:
    Publisher(where).push_prompt()
    ids = [f"{where.lane}-{name}" for name in REQUESTS]
    file = tmp_path / "requests.jsonl"
    file.write_text("".join(json.dumps({"request_id": one, "query": "How does the lamp work?"}) + "\n" for one in ids))
    worker = WorkerProcess(STAGES, lane=where.lane, slot="w0", env=where.env, folder=where.folder, cpu=None)
    try:
        worker.start(HEADRACE_WORKER__FAILPOINT=KILLS[0])
        told = headrace(where, "submit", str(file), "--lane", where.lane, "--tenant", where.tenant).split()
        assert sorted(told) == sorted(ids)
        assert worker.wait_end(DEADLINE_S) == -9
        shown = json.loads(headrace(where, "batches", "--json", "--lane", where.lane))
        assert [(one["state"], one["provider_batch"]) for one in shown["batches"]] == [("creating", None)]
        worker.start(HEADRACE_WORKER__FAILPOINT=KILLS[1])
        assert worker.wait_end(DEADLINE_S) == -9
        worker.start()
        eventually(lambda: _answered(where) >= set(ids), "every request is answered", timeout_s=DEADLINE_S)
        eventually(lambda: _open(where) == (0, 0), "nothing is set aside or reserved", timeout_s=DEADLINE_S)
        assert worker.stop() == 0, worker.tail()
    finally:
        if worker.code is None:
            worker.kill()
    topics = read_topics(where, ("answers", "costs"))
    answers = {one.key: where.codec.decode(one.value, Answer) for one in topics["answers"]}
    costs = {one.value: where.codec.decode(one.value, Cost) for one in topics["costs"]}.values()
    assert {answer.status for answer in answers.values()} == {"answered"}
    calls = [line for line in where.provider.calls() if line["event"] == "begin"]
    assert len(calls) == len(ids), "every call is paid once"
    assert {line["kind"] for line in calls} == {"batch"}
    assert sorted(cost.meta.request_id for cost in costs) == sorted(ids)
    for cost in costs:
        assert cost.price_source.endswith("x 0.5 (batch)")
        tokens = cost.usage.prompt_tokens + cost.usage.completion_tokens
        assert cost.amount_usd == tokens * Decimal("0.001") / 2
    (batch,) = json.loads(headrace(where, "batches", "--json", "--lane", where.lane))["batches"]
    assert (batch["state"], batch["provider_status"], batch["items"]) == ("ended", "completed", {"done": len(ids)})
    (attempt,) = json.loads(headrace(where, "audit", ids[0], "--lane", where.lane, "--json"))["attempts"]
    assert (attempt["batch_id"], attempt["provider_batch"]) == (batch["batch_id"], batch["provider_batch"])


def _answered(where: Scene) -> set[str | None]:
    return {seen.key for seen in read_topics(where, ("answers",))["answers"]}


def _open(where: Scene) -> tuple[int, int]:
    with psycopg.connect(where.dsn) as connection:
        row = connection.execute(
            """SELECT (SELECT count(*) FROM deferred WHERE lane = %(lane)s),
                (SELECT count(*) FROM budget_reservations WHERE budget = %(lane)s AND state = 'open')""",
            {"lane": where.lane},
        ).fetchone()
    return row or (0, 0)
