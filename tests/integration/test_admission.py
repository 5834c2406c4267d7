"""Limits, caps and budgets through a real worker, broker and database: who waits is answered, who is over is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from schemas.records import Alert
from tests.faults.evidence import read_topics
from tests.faults.pipeline import scene
from tests.faults.traffic import Publisher
from tests.faults.worker import WorkerProcess
from tests.support.operating import Desk, sample
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

STAGES = ("admit", "enrich", "complete", "filter")
SHORT = {"lease_s": 2.0, "session_timeout_s": 6.0, "commit_interval_s": 0.3}


@pytest.fixture(scope="module")
def desk(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, WorkerProcess]]:
    assert stack.embeddings_url
    folder = tmp_path_factory.mktemp("admission")
    lane = f"adm{folder.stat().st_ino:x}"
    settings = {
        "worker": SHORT,
        "tenants": {
            # One a minute more than these comes in: nobody's machine is that slow.
            "few": {"tier": "free", "limits": {"requests_per_minute": 1, "requests_burst": 2}},
            "patient": {"tier": "slow"},
            "flood": {"max_in_flight": 2},
            "counted": {"limits": {"tokens_per_minute": 0.001, "tokens_burst": 1_000_000}},
        },
        "limits": {"tiers": {"slow": {"over": "queue", "tenant": {"requests_per_minute": 60, "requests_burst": 1}}}},
        "budgets": {
            f"poor-{lane}": {"period": "day", "tenant": "poor", "hard_usd": "0.0001"},
            f"watched-{lane}": {"period": "month", "tenant": "watched", "soft_usd": "0.000001", "hard_usd": "100"},
        },
    }
    with scene(stack, folder, lane, **settings) as where:
        Publisher(where).push_prompt()
        worker = WorkerProcess(STAGES, lane=where.lane, slot="w0", env=where.env, folder=folder, cpu=None)
        worker.start()
        try:
            worker.wait_ready()
            yield Desk(where), worker
            assert worker.stop() == 0, worker.tail()
        finally:
            if worker.code is None:
                worker.kill()


def test_limits_reject_or_queue_by_tier_and_a_cap_sets_aside(desk: tuple[Desk, WorkerProcess]) -> None:
    at, worker = desk
    few, patient = [f"few-{n}" for n in range(4)], [f"patient-{n}" for n in range(4)]
    flood, other = [f"flood-{n}" for n in range(15)], [f"other-{n}" for n in range(3)]
    at.ask(*few, tenant="few")
    at.ask(*patient, tenant="patient")
    at.ask(*flood, tenant="flood")
    at.ask(*other, tenant="bolt")
    at.ask("counted-0", tenant="counted")
    answers = at.answers([*few, *patient, *flood, *other, "counted-0"])
    assert Counter(answers[name].status for name in few) == {"answered": 2, "rejected": 2}
    rejected = [answers[name].failure for name in few if answers[name].status == "rejected"]
    for failure in rejected:
        assert failure is not None and failure.code == "rate_limited"
        assert failure.retry_after_s is not None and 0 < failure.retry_after_s <= 60
    assert {answers[name].status for name in [*patient, *flood, *other]} == {"answered"}
    assert [at.paid(name) for name in [*patient, *flood, *other]] == [1] * 22
    assert sum(at.paid(name) for name in few) == 2
    queued = {"tier": "slow", "verdict": "queued", "limit": "tenant.requests"}
    assert sample(worker, "headrace_limit_rulings_total", **queued) >= 1, "some of them had to wait"
    capped = {"tier": "standard", "verdict": "queued", "limit": "tenant.max_in_flight"}
    assert sample(worker, "headrace_limit_rulings_total", **capped) >= 1
    eventually(lambda: at.deferred() == [], "no row is left")
    with psycopg.connect(at.where.dsn) as connection:
        query = "SELECT count(*) FROM in_flight WHERE lane = %s"
        assert connection.execute(query, (at.where.lane,)).fetchall() == [(0,)], "every answer gave its place back"
        query = "SELECT tokens_used FROM idempotency WHERE lane = %s AND key = 'counted-0' AND scope = 'request'"
        usage = answers["counted-0"].usage
        used = usage.prompt_tokens + usage.completion_tokens
        assert connection.execute(query, (at.where.lane,)).fetchall() == [(used,)]
        query = "SELECT burst - level FROM rate_buckets WHERE bucket = %s"
        [(taken,)] = connection.execute(query, (f"{at.where.lane}/tenant.tokens/counted",)).fetchall()
        assert taken == pytest.approx(used, abs=1), "the estimate gave way to what was used"


def test_a_budget_refuses_before_anything_is_spent_and_a_soft_limit_is_told(
    desk: tuple[Desk, WorkerProcess],
) -> None:
    at, worker = desk
    lane = at.where.lane
    at.ask("poor-0", tenant="poor")
    at.ask("watched-0", tenant="watched")
    answers = at.answers(["poor-0", "watched-0"])
    failure = answers["poor-0"].failure
    assert answers["poor-0"].status == "rejected" and failure is not None
    assert failure.code == "budget_exceeded" and failure.retry_after_s is not None and failure.retryable
    assert (at.paid("poor-0"), at.paid("watched-0")) == (0, 1)
    assert answers["watched-0"].status == "answered"

    def alerts() -> list[Alert]:
        seen = {one.value for one in read_topics(at.where, ("alerts",))["alerts"]}
        return [at.where.codec.decode(value, Alert) for value in seen]

    eventually(lambda: bool(alerts()), "the alert of the soft limit")
    [alert] = alerts()
    assert (alert.kind, alert.subject, alert.labels["threshold"]) == ("budget", f"watched-{lane}", "soft limit")
    over = {"budget": f"poor-{lane}", "outcome": "over"}
    assert sample(worker, "headrace_budget_reservations_total", **over) >= 1
    with psycopg.connect(at.where.dsn) as connection:
        query = "SELECT spent, reserved FROM budgets WHERE budget = %s"
        [(spent, reserved)] = connection.execute(query, (f"watched-{lane}",)).fetchall()
    assert (spent, reserved) == (answers["watched-0"].cost_usd, 0)
