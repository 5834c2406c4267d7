"""Fan-outs and cascades through real workers: killed between two samples, and once all of them have ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from processors.journal import CallKey
from schemas.ids import derive_id
from schemas.records import Answer, Completion, Cost, Meta, PromptRef, Request, Text
from streams.publish import Publisher as Plain
from tests.faults.evidence import Evidence, collect, read_topics
from tests.faults.pipeline import Scene, scene
from tests.faults.traffic import Planned, Publisher
from tests.faults.worker import WorkerProcess
from tests.provider.process import ProviderProcess
from tests.support.commands import run_headrace
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

STAGES = ("admit", "enrich", "complete", "filter", "account")
SHORT = {"lease_s": 2.0, "session_timeout_s": 6.0, "commit_interval_s": 0.5}
DEADLINE_S = 120.0
SAMPLES = 3
# The first sample to be booked; when all of them have ended.
KILLS = ("after_finish:1", "after_samples")


@pytest.fixture(scope="module")
def where(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder, lane = tmp_path_factory.mktemp("fan_out"), f"f{time.time_ns() % 10**8:x}"
    paid = ProviderProcess(folder / "provider.jsonl")
    fake = {
        "base_url": paid.base_url,
        "model": "strong",
        "price": {"prompt": "15", "completion": "60"},
        "total_timeout_s": 20.0,
    }
    fan_out = {"aggregate": "vote", "samples": SAMPLES, "needed": 2}
    cheap = {"deployment": "fake", "prompt": f"faults-{lane}", "cascade": {"to": ["strong"], "least_time_s": 0}}
    try:
        with scene(
            stack,
            folder,
            lane,
            shared=paid,
            partitions=1,
            worker=SHORT,
            deployments={"strong": fake},
            routes={"default": {"fan_out": fan_out}, "cheap": cheap},
        ) as made:
            yield made
    finally:
        paid.stop()


@pytest.fixture(scope="module")
def evidence(where: Scene) -> Evidence:
    """A request that is fanned out, whose workers are killed, and one whose first reply is cut off."""
    publisher = Publisher(where)
    publisher.push_prompt()
    asked = Planned(request_id=f"{where.lane}-many", question="How does the lamp work?")
    worker = WorkerProcess(STAGES, lane=where.lane, slot="w0", env=where.env, folder=where.folder, cpu=None)
    worker.start(HEADRACE_WORKER__FAILPOINT=KILLS[0])
    try:
        publisher.request(asked)
        publisher.flush()
        assert worker.wait_end(DEADLINE_S) == -9
        worker.start(HEADRACE_WORKER__FAILPOINT=KILLS[1])
        assert worker.wait_end(DEADLINE_S) == -9
        assert not read_topics(where, ("completions",))["completions"]
        worker.start()
        plain = Plain(where.settings, where.codec, lane=where.lane)
        request_id = f"{where.lane}-cheap"
        meta = Meta(
            event_id=derive_id("request", request_id), request_id=request_id, tenant=where.tenant, lane=where.lane
        )
        query = Text(inline="How does the lamp work? [[fault:length,ok]]")
        plain.publish(
            "requests",
            Request(
                meta=meta, user="ada", query=query, route="cheap", prompt=PromptRef(name=where.prompt), stream=True
            ),
            request_id,
        )
        assert not plain.flush()
        eventually(lambda: len(_answers(where)) == 2, "both are answered", timeout_s=DEADLINE_S)
        assert worker.stop() == 0, worker.tail()
    finally:
        if worker.code is None:
            worker.kill()
    return collect(where, [asked], publisher.accepted)


def test_only_the_open_samples_are_paid_again_after_a_kill(where: Scene, evidence: Evidence) -> None:
    rows = [row for row in evidence.attempts if row.request_id.endswith("many")]
    key = CallKey(tenant=where.tenant, lane=where.lane, run="", request_id=f"{where.lane}-many")
    calls = {replace(key, purpose="sample", ordinal=number).call_id for number in range(SAMPLES)}
    done = [row.call_id for row in rows if row.state == "done"]
    lost = [row for row in rows if row.state == "unknown"]
    assert sorted(done) == sorted(calls)
    # One had ended when the first kill came; the second came when all of them had.
    assert len(lost) <= SAMPLES - 1 and len(rows) == SAMPLES + len(lost)
    paid = sum(call.paid for call in evidence.provider if call.request_id.endswith("many"))
    assert SAMPLES <= paid <= len(rows)
    states = {row.call_id: row.state for row in evidence.calls if row.request_id.endswith("many")}
    assert set(states) == {*calls, key.call_id} and set(states.values()) == {"done"}


def test_the_answer_says_what_all_of_them_cost_and_how_they_agreed(where: Scene, evidence: Evidence) -> None:
    [value] = {seen.value for seen in evidence.topics["completions"] if seen.key.endswith("many")}
    completion = where.codec.decode(value, Completion)
    assert completion.fan_out is not None and len(completion.fan_out.samples) == SAMPLES
    assert (completion.fan_out.answered, completion.fan_out.agreement) == (SAMPLES, 1.0)
    answer = _answers(where)[f"{where.lane}-many"]
    rows = [row for row in evidence.attempts if row.request_id.endswith("many")]
    assert answer.cost_usd == sum(row.cost_usd or 0 for row in rows) > 0
    [verdict] = [one for one in answer.verdicts if one.guard == "fan_out"]
    assert (verdict.outcome, verdict.count, verdict.score) == ("pass", SAMPLES, 1.0)
    told = {seen.value for seen in evidence.topics["costs"] if seen.key.endswith("many")}
    costs = [where.codec.decode(value, Cost) for value in told]
    assert {cost.attempt_id for cost in costs} == {row.attempt_id for row in rows} and len(costs) == len(rows)


def test_an_escalated_reply_is_paid_beside_the_stronger_one_and_the_answer_says_why(
    where: Scene, evidence: Evidence
) -> None:
    first, second = [row for row in evidence.attempts if row.request_id.endswith("cheap")]
    assert (first.state, first.error_code, second.state) == ("failed", "escalated_format", "done")
    assert first.cost_usd and not first.upper_bound
    answer = _answers(where)[f"{where.lane}-cheap"]
    assert (answer.status, answer.deployment) == ("answered", "strong")
    [verdict] = [one for one in answer.verdicts if one.guard == "cascade"]
    assert (verdict.outcome, verdict.category) == ("changed", "format")
    # It wanted a stream, and gets the whole text in pieces once it was checked.
    assert not evidence.topics["deltas"]


def test_the_books_agree_and_the_audit_shows_every_sample(where: Scene, evidence: Evidence) -> None:
    ran = run_headrace("costs", "reconcile", "--lane", where.lane, "--json", environment=where.env)
    assert ran.code == 0, ran.out + ran.err
    ran = run_headrace("audit", "verify", "--lane", where.lane, "--json", environment=where.env)
    assert ran.code == 0, ran.out + ran.err
    ran = run_headrace(
        "audit", f"{where.lane}-many", "--lane", where.lane, "--tenant", where.tenant, "--json", environment=where.env
    )
    assert ran.code == 0, ran.err
    assert '"sample"' in ran.out and '"agreement"' in ran.out


def _answers(where: Scene) -> dict[str, Answer]:
    return {seen.key: where.codec.decode(seen.value, Answer) for seen in read_topics(where, ("answers",))["answers"]}
