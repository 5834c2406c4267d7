"""The protocol's table: a worker that is killed between any two durable steps loses nothing and pays at most once more.

Each case has a lane and a worker of its own, with one request in it, so that the turn of a fail point that every stage
passes names the stage. The cases run side by side; each is judged in a test of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from processors.failpoints import NAMES
from schemas.records import Delta
from tests.faults.evidence import AttemptRow, Evidence, Seen, collect, read_topics
from tests.faults.pipeline import Kill, Scene, scene
from tests.faults.traffic import Planned, Publisher
from tests.faults.verifier import verify
from tests.faults.worker import WorkerProcess
from tests.provider.process import ProviderProcess
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

STAGES = ("admit", "enrich", "complete", "filter")
SIDE_BY_SIDE = 3
DEADLINE_S = 150.0
SHORT = {"lease_s": 2.0, "session_timeout_s": 6.0, "commit_interval_s": 0.5}


@dataclass(frozen=True, slots=True)
class Case:
    """A fail point, and what its kill has to leave behind."""

    point: str
    paid: int = 1
    unknown: int = 0
    failed: int = 0
    # What the request says to the provider; a stream is asked for with it.
    streamed: str = ""
    # The topic where the event comes again, with the same id and bytes.
    twice: str | None = None
    # The tenant is paused before the request, so that its event is set aside.
    paused: bool = False


# What is published there is what `complete` of the same worker waits for.
CALL_FOLLOWS = "after_produce:2"
CASES = (
    Case("after_claim", unknown=1),
    Case("before_call", unknown=1),
    Case("after_reply", paid=2, unknown=1),
    Case("after_delta", paid=2, unknown=1, streamed="[[words:20]] [[fault:trickle:0.1,ok]]", twice="deltas"),
    Case("after_abort", failed=1, streamed="[[words:20]] [[fault:error_at:60:4,ok]]", twice="deltas"),
    Case("after_finish"),
    Case("after_cost_produced", twice="costs"),
    Case("after_final_claim"),
    *(
        Case(f"after_produce:{turn}", twice=kind)
        for turn, kind in enumerate(("admitted", "enrichments.normal", "completions", "answers"), start=1)
    ),
    *(
        Case(point, twice="admitted", paused=True)
        for point in ("after_deferral", "after_deferred_taken", "after_deferred_produced")
    ),
    Case("before_ack:3", twice="completions"),
    Case("before_ack:4", twice="answers"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a case left behind; ``between``: what there was after the kill and before the next life."""

    code: int
    evidence: Evidence
    between_completions: list[Seen]
    between_answers: list[Seen]
    between_finals: list[bytes]


@pytest.fixture(scope="module")
def results(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Result]]]:
    """All cases under way, a few at a time."""
    folder = tmp_path_factory.mktemp("failpoints")
    lane = f"p{time.time_ns() % 10**8:x}"
    assert stack.embeddings_url
    paid = ProviderProcess(folder / "provider.jsonl")
    try:
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            yield {
                case.point: pool.submit(_case, stack, paid, folder / str(number), f"{lane}x{number}x", case)
                for number, case in enumerate(CASES)
            }
    finally:
        paid.stop()


def test_every_fail_point_has_a_case() -> None:
    assert {case.point.partition(":")[0] for case in CASES} == set(NAMES)


@pytest.mark.parametrize("case", CASES, ids=[case.point for case in CASES])
def test_a_kill_loses_nothing_and_pays_at_most_once_more(case: Case, results: dict[str, Future[Result]]) -> None:
    result = results[case.point].result(DEADLINE_S * 5)
    evidence, verdict = result.evidence, verify(result.evidence)
    assert result.code == -9
    assert verdict.violations == ()
    assert verdict.statuses == {"answered": 2}
    first = _attempts(evidence, "first")
    paid = sum(call.paid for call in evidence.provider if call.request_id.endswith("first"))
    # The kill may come a moment after the broker has the event, when the next stage has begun its call.
    more = int(case.point == CALL_FOLLOWS and len(first) > 1)
    unknown = case.unknown + more
    assert case.paid <= paid <= case.paid + more
    assert [row.state for row in first] == ["failed"] * case.failed + ["unknown"] * unknown + ["done"]
    assert all(row.upper_bound and row.cost_usd == row.upper_bound_usd for row in first[:unknown])
    assert [row.state for row in _attempts(evidence, "second")] == ["done"]
    if case.twice is not None:
        assert len(_of_first(evidence.topics[case.twice], evidence)) > 1
    if case.point == "after_finish":
        assert result.between_completions == []


def test_a_claimed_final_answer_is_published_as_it_was_claimed(results: dict[str, Future[Result]]) -> None:
    result = results["after_final_claim"].result(DEADLINE_S * 5)
    assert result.between_answers == []
    [claimed] = result.between_finals
    published = _of_first(result.evidence.topics["answers"], result.evidence)
    assert {seen.value for seen in published} == {claimed}


def test_what_costs_said_before_the_kill_is_said_again_in_the_same_bytes(results: dict[str, Future[Result]]) -> None:
    evidence = results["after_cost_produced"].result(DEADLINE_S * 5).evidence
    assert len({seen.value for seen in _of_first(evidence.topics["costs"], evidence)}) == 1


def test_an_attempt_that_broke_off_is_told_again_in_the_same_bytes(results: dict[str, Future[Result]]) -> None:
    evidence = results["after_abort"].result(DEADLINE_S * 5).evidence
    deltas = [evidence.codec.decode(seen.value, Delta) for seen in _of_first(evidence.topics["deltas"], evidence)]
    told = [delta for delta in deltas if delta.aborted]
    assert len(told) == 2 and len(set(told)) == 1
    assert [delta.attempt for delta in deltas if delta.final] == [1]


def _case(stack: TestStack, paid: ProviderProcess, folder: Path, lane: str, case: Case) -> Result:
    with scene(stack, folder, lane, shared=paid, partitions=1, worker=SHORT) as where:
        return _run(where, case)


def _run(where: Scene, case: Case) -> Result:
    publisher = Publisher(where)
    publisher.push_prompt()
    if case.paused:
        publisher.pause()
    question = "How does the lamp work?"
    first = Planned(
        request_id=f"{where.lane}-first", question=f"{question} {case.streamed}", stream=bool(case.streamed)
    )
    second = Planned(request_id=f"{where.lane}-second", question=question)
    worker = WorkerProcess(STAGES, lane=where.lane, slot="w0", env=where.env, folder=where.folder, cpu=None)
    worker.start(HEADRACE_WORKER__FAILPOINT=case.point)
    try:
        began = time.time()
        publisher.request(first)
        publisher.flush()
        # A kill at the deferral comes before there is anything to resume.
        early = case.paused and case.point != "after_deferral"
        if early:
            eventually(lambda: _deferred(where) == 1, "the event is set aside", timeout_s=DEADLINE_S)
            publisher.pause(resumed=True)
        code = worker.wait_end(DEADLINE_S)
        kill = Kill("complete", began, time.time())
        between = read_topics(where, ("completions", "answers"))
        between_finals = _finals(where)
        worker.start()
        if case.paused and not early:
            publisher.pause(resumed=True)
        _await_answers(where, [first])
        publisher.request(second)
        publisher.flush()
        _await_answers(where, [first, second])
        eventually(lambda: _deferred(where) == 0, "no event is left set aside", timeout_s=DEADLINE_S)
        assert worker.stop() == 0, worker.tail()
    finally:
        if worker.code is None:
            worker.kill()
    evidence = collect(where, [first, second], publisher.accepted, kills=(kill,))
    return Result(code, evidence, between["completions"], between["answers"], between_finals)


def _await_answers(where: Scene, requests: list[Planned]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    wanted = {planned.request_id for planned in requests}
    while not wanted <= {seen.key for seen in read_topics(where, ("answers",))["answers"]}:
        if time.monotonic() > deadline:
            seen = {kind: [one.key for one in found] for kind, found in read_topics(where).items()}
            raise TimeoutError(f"{wanted} are not all answered; topics hold {seen}")
        time.sleep(0.2)


def _finals(where: Scene) -> list[bytes]:
    with psycopg.connect(where.dsn) as connection:
        rows = connection.execute("SELECT answer FROM finals WHERE lane = %s", (where.lane,)).fetchall()
    return [bytes(row[0]) for row in rows]


def _deferred(where: Scene) -> int:
    with psycopg.connect(where.dsn) as connection:
        row = connection.execute("SELECT count(*) FROM deferred WHERE lane = %s", (where.lane,)).fetchone()
    return row[0] if row else 0


def _attempts(evidence: Evidence, name: str) -> list[AttemptRow]:
    return [row for row in evidence.attempts if row.request_id.endswith(name)]


def _of_first(records: object, evidence: Evidence) -> list[Seen]:
    assert isinstance(records, list)
    return [seen for seen in records if seen.key.endswith("first")]
