"""Verifying finds each fault that is planted, and nothing where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from processors.complete import SAMPLE
from processors.complete.purse import ALERT_ORDINAL
from processors.complete.tasks import sample_key
from processors.journal import CallKey
from processors.spending.payer import Payer
from schemas.ids import derive_id
from schemas.record import Record
from schemas.records import Alert, Chunk, Completion, Cost, Delta, Enrichment, Failure, Meta, Text
from streams.auditing.findings import KINDS
from streams.auditing.ids import id_holds
from streams.auditing.rerun import FilterAgain, differing, prints
from streams.auditing.scan import micros
from streams.auditing.seen import Seen
from streams.auditing.verify import EFFECTS_FIRST, NOT_OF_REQUESTS, Scope
from streams.cli.audit_verify import lines, notes, off, summary
from streams.exporting.export import RECORDS
from streams.stages import STAGES
from streams.topics import KINDS as KINDS_OF_TOPICS
from tests.support.audited import START, Log, answer, finals_of, verified
from tests.support.recorded import answered, child, filtered
from tests.support.settings import bare_settings

KINDS_BY_RECORD = {made: [kind for kind, record in RECORDS.items() if record is made] for made in RECORDS.values()}


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Seen]:
    with Seen(tmp_path / "seen.sqlite") as store:
        yield store


def first(log: Log, kind: str) -> Record:
    return log.flows[0][kind]


def test_a_lane_in_order_has_nothing_to_say_and_was_filtered_again(seen: Seen) -> None:
    log = Log()
    found, counts = verified(log, seen)
    assert found == []
    assert (counts.requests, counts.answers, counts.reruns, counts.records) == (3, 3, 3, 18)
    assert (
        summary(counts, {})
        == "18 records, 3 requests, 3 answers, 3 filtered again, 0 scores made again: everything fits"
    )


def test_a_request_without_answer_is_found_once_its_time_is_over(seen: Seen) -> None:
    log = Log()
    log.drop("answers")
    found, _ = verified(log, seen)
    assert [(one.kind, one.request_id, one.place) for one in found] == [("no_answer", "r0", "live.requests-0@0")]


def test_a_request_that_may_still_be_answered_is_not_judged(seen: Seen) -> None:
    log = Log()
    log.drop("answers")
    assert verified(log, seen, now=START + timedelta(seconds=90))[0] == []


def test_two_answers_of_a_revision_are_found_and_two_copies_of_one_are_not(seen: Seen) -> None:
    log = Log()
    given = answer(log)
    log.add("answers", given)
    # As the runner ends a request: another ordinal, so another id.
    other = replace(
        given,
        meta=child(replace(given.meta, event_id=given.meta.causation_id), "filter", 9_999),
        status="failed",
        text=None,
        failure=Failure(code="cancelled", error_class="policy", message="over"),
    )
    log.add("answers", replace(other, meta=replace(other.meta, accepted_at=given.meta.accepted_at)))
    found, _ = verified(log, seen)
    assert [(one.kind, one.request_id, one.detail) for one in found] == [
        ("final_differs", "r0", "revision 0"),
        ("several_answers", "r0", "2 of revision 0"),
    ]


def test_copies_with_other_bytes_are_found(seen: Seen) -> None:
    log = Log()
    log.add("answers", replace(answer(log), user="another"))
    assert {(one.kind, one.request_id) for one in verified(log, seen)[0]} == {
        ("copies_differ", "r0"),
        ("final_differs", "r0"),
    }


def test_an_enrichment_that_came_again_otherwise_is_listed_and_no_fault(seen: Seen) -> None:
    log = Log()
    enriched = first(log, "enrichments.normal")
    assert isinstance(enriched, Enrichment)
    log.add("enrichments.normal", replace(enriched, meta=replace(enriched.meta, control_offset=7)))
    found, counts = verified(log, seen)
    assert [(one.kind, one.request_id) for one in found] == [("input_drift", "r0")]
    assert off(seen.counts()) == 0
    assert summary(counts, dict(seen.counts())).endswith("everything fits; 1 inputs drifted")


def test_an_event_whose_cause_is_gone_is_found(seen: Seen) -> None:
    log = Log()
    log.drop("enrichments.normal")
    found, _ = verified(log, seen)
    # Completion and cost event.
    assert [(one.kind, one.request_id) for one in found] == [("cause_missing", "r0")] * 2


def test_an_answer_to_a_request_that_is_not_there_is_found_with_its_first_event(seen: Seen) -> None:
    log = Log()
    log.drop("requests")
    assert {(one.kind, one.request_id) for one in verified(log, seen)[0]} == {
        ("answer_without_request", "r0"),
        ("cause_missing", "r0"),
    }


def test_an_event_with_an_id_of_its_own_is_found(seen: Seen) -> None:
    log = Log()
    completion = first(log, "completions")
    assert isinstance(completion, Completion)
    log.add("completions", replace(completion, meta=replace(completion.meta, event_id="forged")))
    assert [(one.kind, one.place) for one in verified(log, seen)[0]] == [("id_wrong", "live.completions-0@3")]


def test_an_answer_that_the_filter_does_not_make_is_found_with_the_fields(seen: Seen) -> None:
    log = Log()
    log.replaced("answers", replace(answer(log), text=Text(inline="something else"), verdicts=()))
    found, _ = verified(log, seen)
    assert [(one.kind, one.detail) for one in found] == [("filter_differs", "differs in text, verdicts")]


def test_an_answer_that_something_else_decided_is_not_filtered_again(seen: Seen) -> None:
    log = Log()
    over = Failure(code="cancelled", error_class="policy", message="over")
    log.replaced("answers", replace(answer(log), status="failed", text=None, failure=over))
    found, counts = verified(log, seen)
    assert (found, counts.reruns, counts.not_rerun) == ([], 2, 1)


def test_missing_offsets_are_found_where_only_stages_write(seen: Seen) -> None:
    log = Log()
    given = answer(log)
    log.add("answers", given, skip=2)
    log.add("requests", first(log, "requests"), skip=1)
    found, counts = verified(log, seen)
    assert [(one.kind, one.place, one.detail) for one in found] == [
        ("offset_gap", "live.answers-0@5", "2 missing from 3")
    ]
    assert counts.gaps_outside == 1
    scope = Scope(lane="live", since=START, until=None, grace_s=60)
    assert any("transactions" in note for note in notes(scope, counts))


def test_what_can_not_be_read_needs_a_dead_letter(seen: Seen) -> None:
    log = Log()
    log.add("admitted", b"no avro")
    log.add("admitted", b"no avro either")
    where = {"topic": "live.admitted", "partition": "0", "offset": "3"}
    log.add("dead-letters", b"no avro", headers={f"__connect.errors.{name}": text for name, text in where.items()})
    found, _ = verified(log, seen)
    assert [(one.kind, one.place) for one in found] == [("undecodable_without_letter", "live.admitted-0@4")]


def test_a_revision_has_to_name_an_answer_that_was_given(seen: Seen) -> None:
    log = Log()
    given = answer(log)
    meta = replace(child(replace(given.meta, event_id=given.meta.causation_id, run="run-1"), "filter"))
    log.add("answers", replace(given, meta=meta, revision=1, supersedes=given.meta.event_id))
    assert verified(log, seen)[0] == []
    second = replace(child(replace(given.meta, event_id=given.meta.causation_id, run="run-2"), "filter"))
    log.add("answers", replace(given, meta=second, revision=2, supersedes="never"))
    with Seen(Path(seen.ask("SELECT file FROM pragma_database_list").__next__()[0] + "2")) as again:
        found, _ = verified(log, again)
    assert {one.kind for one in found} == {"supersedes_unknown"}


def test_what_a_backfill_published_has_its_cause_and_its_policy_elsewhere(seen: Seen) -> None:
    log = Log()
    given = answer(log)
    # Made in the run's lane, of a completion there, and published as the next revision of the request.
    cause = replace(given.meta, event_id="of-the-runs-lane", lane="replay-b1", run="b1")
    made = replace(child(cause, "filter"), lane="live")
    log.add("answers", replace(given, meta=made, text=Text(inline="anew"), revision=1, supersedes=given.meta.event_id))
    # Another run filtered the recorded completion itself, under another policy.
    other = replace(given.meta, event_id=given.meta.causation_id, lane="replay-a2", run="a2")
    again = replace(child(other, "filter"), lane="live")
    log.add("answers", replace(given, meta=again, text=Text(inline="oh"), revision=2, supersedes=made.event_id))
    found, counts = verified(log, seen)
    assert (found, counts.reruns) == ([], 3)


def test_another_final_answer_in_the_database_is_found(seen: Seen) -> None:
    log = Log()
    rows = sorted(finals_of(log))
    rows[0] = (*rows[0][:3], "another", *rows[0][4:])
    assert [(one.kind, one.request_id) for one in verified(log, seen, finals=rows)[0]] == [
        ("final_differs", rows[0][1])
    ]


def test_findings_are_shown_by_kind_with_what_they_mean(seen: Seen) -> None:
    log = Log(requests=5)
    for _ in range(3):
        log.drop("answers")
    verified(log, seen)
    shown = list(lines(seen, dict(seen.counts()), limit=2))
    assert shown[0] == f"no_answer (3): {KINDS['no_answer']}"
    assert shown[-1] == "  and 1 more"


def test_ids_of_costs_deltas_and_chunks_follow_from_what_they_say() -> None:
    flow = answered("live", "r1", START)
    cost = flow["costs"]
    assert isinstance(cost, Cost) and id_holds(cost)
    assert not id_holds(replace(cost, attempt_id="x"))
    late = replace(cost, correction="late", meta=replace(cost.meta, event_id=derive_id(cost.attempt_id, "late")))
    rerated = replace(late, correction="rerate", amount_usd=Decimal(0))
    assert id_holds(late) and not id_holds(rerated)
    paid = Payer(meta=flow["admitted"].meta, stage="enrich", version="1").attempt(2)
    embedded = replace(cost, meta=paid, attempt_id=paid.event_id, purpose="embedding", ordinal=2)
    assert id_holds(embedded) and not id_holds(replace(embedded, ordinal=3))
    meta = Meta(event_id=derive_id(cost.attempt_id, "delta", 4), request_id="r1", tenant="acme", lane="live")
    assert id_holds(Delta(meta=meta, sequence=4)) and not id_holds(Delta(meta=meta, sequence=5))
    chunk = replace(meta, event_id=derive_id("acme", "live", "", "r1", 0, 7))
    assert id_holds(Chunk(meta=chunk, start_char=7)) and not id_holds(Chunk(meta=chunk, kind="end", start_char=7))


def test_ids_of_costs_follow_from_the_call_that_they_name() -> None:
    cost = answered("live", "r1", START)["costs"]
    assert isinstance(cost, Cost)

    def told(attempt_id: str, **fields: Any) -> Cost:
        return replace(cost, attempt_id=attempt_id, meta=replace(cost.meta, event_id=attempt_id), **fields)

    # The second attempt of the third call of a request that was fanned out.
    request = CallKey(tenant="acme", lane="live", run="", request_id="r1")
    sample = told(sample_key(request, 2).attempt_id(1), purpose=SAMPLE, ordinal=1)
    assert id_holds(sample)
    assert not id_holds(told("invented", purpose=SAMPLE, ordinal=1))
    assert not id_holds(replace(sample, ordinal=2)) and not id_holds(replace(sample, purpose="completion"))
    assert not id_holds(told(cost.attempt_id, purpose="anything"))
    late = replace(sample, correction="late", meta=replace(sample.meta, event_id=derive_id(sample.attempt_id, "late")))
    assert id_holds(late)
    invented = replace(late.meta, event_id=derive_id("invented", "late"))
    assert not id_holds(replace(late, attempt_id="invented", meta=invented))
    assert not id_holds(replace(cost, correction="otherwise"))
    assert not id_holds(replace(cost, meta=replace(cost.meta, stage="filter")))


def test_ids_of_alerts_follow_from_the_call_that_passed_a_budget() -> None:
    meta = answered("live", "r1", START)["completions"].meta  # type: ignore[attr-defined]
    told = Alert(meta=child(meta, "complete", ALERT_ORDINAL + 1), kind="budget", severity="warning", message="passed")
    assert id_holds(told)
    for forged in (replace(told.meta, event_id="invented"), replace(told.meta, stage="filter")):
        assert not id_holds(replace(told, meta=forged))


def test_the_recorded_time_decides_what_was_late() -> None:
    """The filter's verdict on the time to live depends on the clock: it runs with the time of the answer."""
    completion = answered("live", "r1", START)["completions"]
    assert isinstance(completion, Completion)
    late = START + timedelta(days=2)
    given = filtered(completion, late)
    with FilterAgain(bare_settings(), "live") as again:
        assert differing(again.prints(completion, micros(late) or 0), prints(given)) == []
        assert differing(again.prints(completion, micros(START) or 0), prints(given)) == ["verdicts"]


def test_the_ends_of_effects_are_taken_before_those_of_their_causes() -> None:
    """Else what is written while verifying reads would be found without its cause."""
    assert {*EFFECTS_FIRST} == {*KINDS_OF_TOPICS} - {*NOT_OF_REQUESTS}
    order = EFFECTS_FIRST.index
    for stage in STAGES.values():
        for source in stage.inputs:
            for made in stage.outputs:
                for kind in KINDS_BY_RECORD.get(made, ()):
                    if source.kind in EFFECTS_FIRST and kind != source.kind:
                        assert order(kind) < order(source.kind), (stage.name, kind, source.kind)
