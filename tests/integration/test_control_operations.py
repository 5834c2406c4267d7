"""Pausing, draining and cancelling as an operator does it: commands, a real worker, real broker and database."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.faults.evidence import uncommitted
from tests.faults.pipeline import scene
from tests.faults.traffic import Publisher
from tests.faults.worker import WorkerProcess
from tests.support.commands import run_headrace
from tests.support.operating import Desk, page, sample
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

STAGES = ("admit", "enrich", "complete", "filter")
SHORT = {"lease_s": 2.0, "session_timeout_s": 6.0, "commit_interval_s": 0.3}
HOLD_S = 120.0


@pytest.fixture(scope="module")
def desk(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Desk, WorkerProcess]]:
    assert stack.embeddings_url
    folder = tmp_path_factory.mktemp("operations")
    routes = {
        "other": {"deployment": "fake", "k": 0},
        "away": {"deployment": "away", "k": 0, "max_attempts": 9},
        "sorry": {
            "deployment": "away",
            "k": 0,
            "max_attempts": 1,
            "patience_s": 0,
            "last_resort": "Sorry: {{ code }}.",
        },
    }
    # Nothing listens there.
    away = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "total_timeout_s": 20.0}
    # A call is open for as long as the commands about it take.
    patient = {"total_timeout_s": 50.0, "first_token_timeout_s": 45.0}
    deployments = {"away": away, "fake": patient}
    lane = f"ops{folder.stat().st_ino:x}"
    with scene(stack, folder, lane, worker=SHORT, routes=routes, deployments=deployments) as where:
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


def test_a_paused_stage_takes_nothing_and_everything_is_answered_once_after_it(
    desk: tuple[Desk, WorkerProcess],
) -> None:
    at, worker = desk
    names = [f"stage-{number}" for number in range(5)]
    paused = at.json("pause", "stage", "complete", "--reason", "the provider is ill")
    assert paused["changed"] and paused["reason"] == "the provider is ill"
    assert not at.json("pause", "stage", "complete")["changed"]
    eventually(lambda: page(worker, "/readyz")[1].get("paused") == ["complete"], "the worker knows of the pause")
    at.ask(*names)
    eventually(lambda: set(names) <= set(at.keys("enrichments.normal")), "all wait before the paused stage")
    eventually(lambda: worker.metrics().get("headrace_lag_events", 0) >= 5, "the lag shows")
    eventually(lambda: page(worker, "/readyz")[0] == 200, "a worker that is paused is ready")
    assert page(worker, "/livez")[0] == 200
    assert worker.metrics()["headrace_stage_paused"] >= 1
    assert not at.keys("completions") and not any(at.paid(name) for name in names)
    assert at.json("resume", "stage", "complete")["changed"]
    assert {answer.status for answer in at.answers(names).values()} == {"answered"}
    assert [at.paid(name) for name in names] == [1] * 5


def test_a_paused_tenant_holds_up_no_other_and_loses_nothing(desk: tuple[Desk, WorkerProcess]) -> None:
    at, worker = desk
    held, free = [f"a-{number}" for number in range(4)], [f"b-{number}" for number in range(4)]
    at.ask("first", tenant="acme")
    at.answers(["first"])
    at.json("pause", "tenant", "acme")
    eventually(lambda: sample(worker, "headrace_paused", kind="tenant") == 1, "the worker knows of the pause")
    at.ask(*held, tenant="acme")
    at.ask("late", tenant="acme", ttl_ms=1_500)
    at.ask(*free, tenant="bolt")
    assert {answer.status for answer in at.answers(free).values()} == {"answered"}
    eventually(lambda: {("enrich", name) for name in held} <= set(at.deferred()), "acme's events are set aside")
    eventually(lambda: not uncommitted(at.where), "no group's commit is held by them")
    assert at.answers(["late"])["late"].status == "expired", "the ttl holds while its tenant is paused"
    cancelled = at.json("cancel", held[0], "--tenant", "acme", "--wait", "150")
    assert (cancelled["outcome"], cancelled["status"], cancelled["code"]) == ("cancelled", "failed", "cancelled")
    assert not any(at.answered(name) for name in held[1:])
    eventually(lambda: [name for _, name in at.deferred()] == held[1:], "who was cancelled or expired has no row")
    resumed = at.json("resume", "tenant", "acme")
    assert resumed["changed"] and resumed["deferred"] == 3
    answers = at.answers(held)
    assert [answers[name].status for name in held] == ["failed", "answered", "answered", "answered"]
    assert [at.paid(name) for name in held] == [0, 1, 1, 1]
    eventually(lambda: not at.deferred(), "no row is left")


def test_a_paused_route_holds_its_events_before_their_call(desk: tuple[Desk, WorkerProcess]) -> None:
    at, worker = desk
    at.json("pause", "stage", "complete")
    eventually(lambda: page(worker, "/readyz")[1].get("paused") == ["complete"], "the worker knows of the pause")
    at.ask("route-held", route="other")
    eventually(lambda: "route-held" in at.keys("enrichments.normal"), "it waits before complete")
    at.json("pause", "route", "other")
    at.json("resume", "stage", "complete")
    eventually(lambda: ("complete", "route-held") in at.deferred(), "it is set aside at complete")
    (waits,) = at.json("audit", "route-held", "--tenant", "acme")["deferred"]
    assert (waits["stage"], waits["reason"]) == ("complete", "route/other")
    at.ask("route-free")
    assert at.answers(["route-free"])["route-free"].status == "answered"
    at.json("resume", "route", "other")
    assert at.answers(["route-held"])["route-held"].status == "answered"
    assert at.paid("route-held") == 1


def test_a_pause_that_is_recorded_is_told_though_postgres_is_away(desk: tuple[Desk, WorkerProcess]) -> None:
    at, _ = desk
    away = {**at.where.env, "HEADRACE_POSTGRES": json.dumps({"dsn": "postgresql://nobody@127.0.0.1:9/none"})}
    try:
        drained = run_headrace(
            "drain", "route", "other", "--lane", at.where.lane, "--timeout", "1", "--json", environment=away
        )
        (told,) = drained.objects
        assert drained.code == 1 and (told["paused"], told["drained"], told["deferred"]) == (True, False, None)
        assert "route other is paused" in drained.err and "postgres is not reachable" in drained.err
        again = run_headrace("pause", "route", "other", "--lane", at.where.lane, environment=away)
        assert again.code == 0 and "not known: Postgres is away" in again.err
    finally:
        at.json("resume", "route", "other")


def test_a_request_is_cancelled_whatever_stage_has_it(desk: tuple[Desk, WorkerProcess]) -> None:
    at, worker = desk
    unknown = at.json("cancel", "never-before", "--tenant", "acme")
    assert (unknown["outcome"], unknown["known"]) == ("unknown", False)
    at.ask("never-before")
    for stage, kind, name in (("complete", "enrichments.normal", "at-call"), ("filter", "completions", "at-filter")):
        at.json("pause", "stage", stage)
        # Of this one: the pause before it may still be told.
        eventually(lambda s=stage: page(worker, "/readyz")[1].get("paused") == [s], "it is known")  # type: ignore[misc]
        at.ask(name)
        eventually(lambda k=kind, n=name: n in at.keys(k), f"{name} waits before {stage}")  # type: ignore[misc]
        assert at.json("cancel", name, "--tenant", "acme", "--wait", "0")["outcome"] == "recorded"
        at.json("resume", "stage", stage)
    answers = at.answers(["never-before", "at-call", "at-filter"])
    assert {(answer.status, answer.failure and answer.failure.code) for answer in answers.values()} == {
        ("failed", "cancelled")
    }
    assert [at.paid(name) for name in ("never-before", "at-call", "at-filter")] == [0, 0, 1]
    assert answers["at-filter"].cost_usd, "what was spent before the cancel is told"
    assert at.json("cancel", "at-filter")["outcome"] == "cancelled_before", "the tenant is found by the id"


def test_a_cancel_ends_an_open_call(desk: tuple[Desk, WorkerProcess]) -> None:
    at, _ = desk
    at.ask("in-call", question=f"Tell me. [[fault:slow:{HOLD_S:g}]]")
    eventually(lambda: at.paid("in-call") == 1, "the call is open")
    ended = at.json("cancel", "in-call", "--tenant", "acme", "--wait", "150")
    assert ended["outcome"] == "cancelled" and at.paid("in-call") == 1


def test_a_drain_waits_for_what_is_in_process_and_says_what_is_left(desk: tuple[Desk, WorkerProcess]) -> None:
    at, _ = desk
    at.ask("in-hand", question="Tell me. [[fault:slow:30]]")
    eventually(lambda: at.paid("in-hand") == 1, "the call is open")
    early = at.json("drain", "stage", "complete", "--timeout", "0", code=1)
    assert not early["drained"] and early["paused"]
    assert early["left"]["events"] or early["left"]["behind"], early
    late = at.json("drain", "stage", "complete", "--timeout", "150")
    assert late["drained"] and not late["changed"] and late["left"]["workers"] == 1
    assert at.answers(["in-hand"])["in-hand"].status == "answered"
    at.ask("after-drain")
    at.json("resume", "stage", "complete")
    assert at.json("drain", "tenant", "bolt", "--timeout", "150", "--unseen")["drained"]
    at.json("resume", "tenant", "bolt")
    assert at.answers(["after-drain"])["after-drain"].status == "answered"


def test_a_final_request_is_not_cancelled_and_the_command_says_so(desk: tuple[Desk, WorkerProcess]) -> None:
    at, _ = desk
    at.ask("done")
    at.answers(["done"])
    final = at.json("cancel", "done", "--tenant", "acme", code=1)
    assert (final["outcome"], final["status"], final["control_offset"]) == ("final_before", "answered", None)
    assert "is final already (answered)" in at.run("cancel", "done", "--tenant", "acme").err


def test_names_that_are_not_there_are_refused_with_those_that_are(desk: tuple[Desk, WorkerProcess]) -> None:
    at, _ = desk
    for kind, known in (("stage", "complete"), ("route", "other"), ("tenant", "--unseen")):
        ran = at.run("pause", kind, "nowhere")
        assert ran.code == 2 and "nowhere" in ran.err and known in ran.err
        assert at.run("resume", kind, "nowhere").code == 2
    assert "was not paused" in at.run("resume", "stage", "complete").err
    # More tenants than one: whose request it is can't be told.
    at.ask("of-another-tenant", tenant="acme")
    at.answers(["of-another-tenant"])
    unknown = at.run("cancel", "nobody-asked-this")
    assert unknown.code == 2 and "--tenant" in unknown.err
    elsewhere = ("--tenant", "acme", "--lane", "nolane")
    nowhere = run_headrace("cancel", "r1", *elsewhere, environment=at.where.env)
    assert nowhere.code == 2 and "nolane.control" in nowhere.err


def test_a_malformed_record_is_passed_over_and_counted(desk: tuple[Desk, WorkerProcess]) -> None:
    at, worker = desk

    def malformed() -> float:
        return sample(worker, "headrace_control_records_total", outcome="malformed")

    before = malformed()
    at.write("control", "pause/x", b"no avro")
    eventually(lambda: malformed() == before + 1, "it is counted")
    assert page(worker, "/livez")[0] == 200
    at.ask("after-malformed")
    assert at.answers(["after-malformed"])["after-malformed"].status == "answered"


def test_a_request_whose_deployment_is_down_is_set_aside_and_ends_when_it_is_cancelled(
    desk: tuple[Desk, WorkerProcess],
) -> None:
    at, worker = desk
    at.ask("parked", route="away")
    eventually(lambda: at.deferred() == [("complete", "parked")], "its breaker opened, and it was set aside")
    # At once: the breaker lets a call through when it has been open for half a minute.
    at.ask("consoled", route="sorry")
    consoled = at.answers(["consoled"])["consoled"]
    assert (consoled.status, consoled.served_by) == ("answered", "template")
    assert consoled.text is not None and consoled.text.inline == "Sorry: deployment_unavailable."
    eventually(lambda: not uncommitted(at.where), "neither holds a commit")
    assert sample(worker, "headrace_breaker_open", deployment="away") == 1
    at.json("cancel", "parked", "--tenant", "acme", code=0)
    parked = at.answers(["parked"])["parked"]
    assert parked.failure is not None and parked.failure.code == "cancelled"
    codes = [attempt.error_code for attempt in parked.attempts]
    # Five open the breaker; one more is let through each time that it has been open for long enough.
    assert 5 <= len(codes) < 9 and set(codes) == {"connect_error"}
    eventually(lambda: not at.deferred(), "no row is left")
