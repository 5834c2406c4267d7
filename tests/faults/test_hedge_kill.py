"""Second calls and classes of requests through real workers: killed with both calls open, and what the books say."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from schemas.ids import derive_id
from schemas.records import Answer, Attempt, Completion, Cost, Meta, PromptRef, Request, Text
from streams.publish import Publisher as Plain
from tests.faults.evidence import Evidence, collect, read_topics
from tests.faults.pipeline import Scene, scene
from tests.faults.traffic import Publisher
from tests.faults.worker import WorkerProcess
from tests.provider.process import ProviderProcess
from tests.support.commands import run_headrace
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

STAGES = ("admit", "enrich", "complete", "filter", "account")
SHORT = {"lease_s": 2.0, "session_timeout_s": 6.0, "commit_interval_s": 0.5}
DEADLINE_S = 120.0
# Longer than a call takes that meets no fault, on a busy machine too.
BEFORE_S = 10.0
# Long enough for a second call to be answered meanwhile, or for a kill with both open.
CALL_S = {"total_timeout_s": 45.0, "first_token_timeout_s": 40.0}
# Longer than a call may take.
NEVER = "slow:60"
KILLED, SLOW, HARD = "killed", "slow", "hard"
ASKED = {
    KILLED: f"How does it work? [[fault:{NEVER},{NEVER},ok]]",
    SLOW: f"How does it work? [[fault:{NEVER},ok]]",
    HARD: "Compare the lamps.",
}


@pytest.fixture(scope="module")
def where(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder, lane = tmp_path_factory.mktemp("hedge"), f"f{time.time_ns() % 10**8:x}"
    paid = ProviderProcess(folder / "provider.jsonl")
    fake = {
        "base_url": paid.base_url,
        "model": "spare",
        "weight": 0,
        "price": {"prompt": "15", "completion": "60"},
        **CALL_S,
    }
    hedged = {
        "deployments": ["fake", "spare"],
        "prompt": f"faults-{lane}",
        "k": 0,
        "hedge": {"before_s": BEFORE_S, "floor_s": BEFORE_S, "share": 1.0},
        "complexity": {"complex": ["strong"]},
    }
    try:
        with scene(
            stack,
            folder,
            lane,
            shared=paid,
            partitions=1,
            worker=SHORT,
            deployments={"fake": CALL_S, "spare": fake, "strong": {**fake, "weight": 1, "model": "strong"}},
            routes={"hedged": hedged},
        ) as made:
            yield made
    finally:
        paid.stop()


@pytest.fixture(scope="module")
def evidence(where: Scene) -> Evidence:
    """A request whose worker is killed with both of its calls open, one whose second call answers, and a hard one."""
    Publisher(where).push_prompt()
    worker = WorkerProcess(STAGES, lane=where.lane, slot="w0", env=where.env, folder=where.folder, cpu=None)
    worker.start()
    try:
        _ask(where, KILLED)
        eventually(lambda: _paid(where, KILLED) == 2, "both calls are open", timeout_s=DEADLINE_S)
        worker.kill()
        worker.start()
        _ask(where, SLOW, HARD)
        eventually(lambda: len(_answers(where)) == len(ASKED), "all are answered", timeout_s=DEADLINE_S)
        assert worker.stop() == 0, worker.tail()
    finally:
        if worker.code is None:
            worker.kill()
    return collect(where, [], {})


def test_a_kill_with_both_calls_open_costs_one_more_and_books_both(where: Scene, evidence: Evidence) -> None:
    rows = _attempts(where, evidence, KILLED)
    assert [(row.state, row.error_code) for row in rows] == [
        ("unknown", "worker_lost"),
        ("unknown", "worker_lost"),
        ("done", None),
    ]
    assert all(row.upper_bound and row.cost_usd for row in rows[:2])
    assert _paid(where, KILLED) == 3
    assert _completion(where, evidence, KILLED).hedge is None


def test_the_second_call_answers_and_the_completion_says_so(where: Scene, evidence: Evidence) -> None:
    lost, won = _attempts(where, evidence, SLOW)
    assert (lost.deployment, lost.state, lost.error_code) == ("fake", "unknown", "hedge_lost")
    assert (won.deployment, won.state) == ("spare", "done") and _paid(where, SLOW) == 2
    completion = _completion(where, evidence, SLOW)
    assert completion.hedge is not None and (completion.hedge.attempt, completion.hedge.won) == (1, 1)
    assert completion.hedge.after_ms >= BEFORE_S * 1000
    answer = _answers(where)[f"{where.lane}-{SLOW}"]
    assert lost.cost_usd and won.cost_usd and answer.cost_usd == lost.cost_usd + won.cost_usd and answer.estimated
    told = {seen.value for seen in evidence.topics["costs"] if seen.key.endswith(SLOW)}
    costs = {cost.attempt_id: cost for cost in (where.codec.decode(value, Cost) for value in told)}
    assert {row.attempt_id: row.cost_usd for row in (lost, won)} == {
        attempt_id: cost.amount_usd for attempt_id, cost in costs.items()
    }


def test_a_hard_request_goes_where_its_class_goes(where: Scene, evidence: Evidence) -> None:
    [row] = _attempts(where, evidence, HARD)
    assert (row.deployment, row.state) == ("strong", "done")
    hard = _completion(where, evidence, HARD).complexity
    assert hard is not None and (hard.name, hard.reasons, hard.target) == ("complex", ("question",), "strong")
    easy = _completion(where, evidence, SLOW).complexity
    assert easy is not None and (easy.name, easy.question) == ("balanced", "reasoning")


def test_the_books_agree_and_the_audit_says_why(where: Scene, evidence: Evidence) -> None:
    assert evidence.finals
    ran = run_headrace("costs", "reconcile", "--lane", where.lane, "--json", environment=where.env)
    assert ran.code == 0, ran.out + ran.err
    for name in (SLOW, HARD):
        ran = run_headrace(
            *("audit", f"{where.lane}-{name}", "--lane", where.lane, "--tenant", where.tenant, "--json"),
            environment=where.env,
        )
        assert ran.code == 0, ran.err
        [routing] = json.loads(ran.out)["routing"]
        assert routing["complexity"]["name"] == ("complex" if name == HARD else "balanced")
        assert (routing["hedge"] is None) == (name == HARD)


def _ask(where: Scene, *names: str) -> None:
    plain = Plain(where.settings, where.codec, lane=where.lane)
    for name in names:
        request_id = f"{where.lane}-{name}"
        meta = Meta(
            event_id=derive_id("request", request_id), request_id=request_id, tenant=where.tenant, lane=where.lane
        )
        request = Request(
            meta=meta, user="ada", query=Text(inline=ASKED[name]), route="hedged", prompt=PromptRef(name=where.prompt)
        )
        plain.publish("requests", request, request_id)
    assert not plain.flush()


def _paid(where: Scene, name: str) -> int:
    return where.provider.paid()[f"{where.lane}-{name}"]


def _attempts(where: Scene, evidence: Evidence, name: str) -> tuple[Attempt, ...]:
    """What the answer tells of its attempts, which is what the journal has."""
    told = _answers(where)[f"{where.lane}-{name}"].attempts
    rows = {row.attempt_id: row for row in evidence.attempts if row.request_id == f"{where.lane}-{name}"}
    assert {one.attempt_id: (one.state, one.cost_usd) for one in told} == {
        row.attempt_id: (row.state, row.cost_usd) for row in rows.values()
    }
    return told


def _completion(where: Scene, evidence: Evidence, name: str) -> Completion:
    [value] = {seen.value for seen in evidence.topics["completions"] if seen.key == f"{where.lane}-{name}"}
    return where.codec.decode(value, Completion)


def _answers(where: Scene) -> dict[str, Answer]:
    return {seen.key: where.codec.decode(seen.value, Answer) for seen in read_topics(where, ("answers",))["answers"]}
