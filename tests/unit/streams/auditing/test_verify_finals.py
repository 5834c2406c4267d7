"""Verifying compares answers with what the database has as final, and with the requests that they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from processors.claimcheck import part
from schemas.records import Answer, Text
from streams.auditing.rerun import FilterAgain, print_of
from streams.auditing.scan import Scan, micros
from streams.auditing.seen import Seen
from streams.auditing.verify import Scope
from streams.cli.audit_verify import notes
from streams.headers import IMPORTED
from streams.opened import Opener
from streams.reading import Entry, Place, Stretch, TopicReader
from tests.support.audited import CODEC, START, Log, answer, final, finals_of, verified
from tests.support.recorded import answered, child
from tests.support.settings import bare_settings


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Seen]:
    with Seen(tmp_path / "seen.sqlite") as store:
        yield store


def test_an_answer_under_its_own_id_that_says_something_else_is_found(seen: Seen) -> None:
    log = Log()
    rows = finals_of(log)
    log.replaced("answers", replace(answer(log), user="another"))
    found, _ = verified(log, seen, finals=rows)
    assert {(one.kind, one.request_id) for one in found} == {("final_differs", "r0"), ("filter_differs", "r0")}


def test_an_answer_whose_texts_lie_elsewhere_is_the_same_one() -> None:
    given = answer(Log(requests=1))
    large = replace(given, text=Text(inline="long " * 1_000))
    parted = part(large, 4_000)
    assert parted.bodies and print_of(parted.record) == print_of(large) != print_of(given)


def test_a_revision_that_was_never_decided_is_found_though_its_id_follows_from_an_invented_run(seen: Seen) -> None:
    log = Log()
    given = answer(log)
    cause = replace(given.meta, event_id="nothing at all", lane="replay-zzz", run="zzz")
    made = replace(child(cause, "filter"), lane="live")
    rows = finals_of(log)
    forged = replace(given, meta=made, text=Text(inline="forged"), revision=1, supersedes=given.meta.event_id)
    log.add("answers", forged)
    found, _ = verified(log, seen, finals=rows)
    assert [(one.kind, one.request_id, one.detail) for one in found] == [
        ("answer_not_final", "r0", "revision 1 of zzz")
    ]


def test_a_revision_that_was_decided_and_never_published_is_found_once_it_is_old_enough(seen: Seen) -> None:
    log = Log()
    rows = [*finals_of(log), final(answer(log), revision=1)]
    # Sixty seconds have to be over on both ends.
    late = [(*row[:4], micros(START + timedelta(minutes=5)), row[5]) for row in rows]
    assert verified(log, seen, finals=late, now=START + timedelta(minutes=5, seconds=30))[0] == []
    found, _ = verified(log, seen, finals=late)
    assert [(one.kind, one.request_id, one.detail) for one in found] == [("final_unpublished", "r0", "revision 1")]


def test_what_was_imported_has_its_final_rows_elsewhere_and_is_told(seen: Seen) -> None:
    log = Log()
    log.entries["answers"] = [replace(one, headers=((IMPORTED, b"d/1"),)) for one in log.entries["answers"]]
    found, counts = verified(log, seen, finals=[])
    assert (found, counts.imported) == ([], 3)
    scope = Scope(lane="live", since=START, until=None, grace_s=60)
    assert any("3 answers were imported" in note for note in notes(scope, counts))


def test_an_answer_belongs_to_the_request_of_its_own_tenant(seen: Seen) -> None:
    log = Log(requests=2)
    other = answered("live", "r0", START, tenant="globex")
    for kind, record in other.items():
        if kind != "requests":
            log.add(kind, record)
    found, _ = verified(log, seen)
    assert ("answer_without_request", "globex") in {(one.kind, one.tenant) for one in found}


def test_a_revision_has_to_name_an_answer_of_its_own_request(seen: Seen) -> None:
    log = Log()
    given = answer(log)
    other = CODEC.decode(log.entries["answers"][1].value or b"", Answer)
    meta = child(replace(given.meta, event_id=given.meta.causation_id, run="run-1"), "filter")
    log.add("answers", replace(given, meta=meta, revision=1, supersedes=other.meta.event_id))
    assert [one.kind for one in verified(log, seen)[0]] == ["supersedes_unknown"]


def test_the_answers_on_a_tenants_own_topic_are_those_of_the_shared_one(tmp_path: Path) -> None:
    def found(*copies: tuple[str, Answer]) -> list[tuple[str, str]]:
        log, at = Log(), START + timedelta(minutes=2)
        for place, (owner, given) in enumerate(copies):
            own = Entry(f"live.answers.{owner}", 0, place, at, b"r0", CODEC.encode(given), ())
            log.entries["answers"].append(own)
        with Seen(tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite") as seen:
            return [(one.kind, one.place) for one in verified(log, seen, finals=finals_of(Log()))[0]]

    given = answer(Log())
    assert found(("acme", given)) == []
    forged = replace(given, text=Text(inline="forged"))
    assert found(("acme", given), ("acme", forged)) == [("copies_differ", "live.answers.acme-0@1")]
    invented = replace(given, meta=child(replace(given.meta, run="x"), "filter"))
    assert found(("acme", invented)) == [("copies_differ", "live.answers.acme-0@0")]
    assert found(("globex", given)) == [("copies_differ", "live.answers.globex-0@0")]


class Cut:
    """A reader of partitions whose last records are gone."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = entries

    def offsets_at(self, places: Sequence[Place], _moment: datetime) -> dict[Place, int]:
        return dict.fromkeys(places, 0)

    def read(self, _stretches: object) -> Iterator[Entry]:
        return iter(self._entries)


def test_records_that_are_missing_at_the_end_of_a_partition_are_found(seen: Seen) -> None:
    log = Log()
    opener = Opener(CODEC, prefix="", lane="live")
    with FilterAgain(bare_settings(), "live") as again:
        scan = Scan(seen, opener, again, prefix="", lane="live")
        for kind in ("answers", "requests"):
            cut = cast("TopicReader", Cut(log.entries[kind]))
            scan.read(cut, {(f"live.{kind}", 0): Stretch(0, 5)}, START, None, lambda _what, _count: None)
        whole = cast("TopicReader", Cut(log.entries["admitted"]))
        scan.read(whole, {("live.admitted", 0): Stretch(0, 3)}, START, None, lambda _what, _count: None)
    assert [(one.kind, one.place, one.detail) for one in seen.findings()] == [
        ("offset_gap", "live.answers-0@5", "2 missing from 3")
    ]
    assert scan.counts.gaps_outside == 2
