"""What an audit says of an answer's origins, and the page that shows it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from processors.prompts import StoredPrompt, digest_of
from schemas.record import Record
from schemas.records import (
    Admission,
    Answer,
    Citation,
    Completion,
    Complexity,
    Control,
    Feedback,
    Grounding,
    Hedge,
    Meta,
    Passage,
    Request,
    Span,
    Text,
    Verdict,
)
from streams.audit import Audit
from streams.auditing.explain import Background, DocumentNow, documents_used, explained, prompts_used
from streams.auditing.live import Change
from streams.auditing.page import page, write_page
from streams.causes import Event, causal_order
from streams.cli.audit import tree, view
from streams.known import Known
from streams.opened import Opened
from streams.reading import Entry
from tests.support.browser import dump

START = datetime(2026, 5, 1, tzinfo=UTC)
EVIL = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"


def meta(event_id: str, cause: str, stage: str, offset: int = 4) -> Meta:
    return Meta(
        event_id=event_id,
        request_id="r1",
        tenant="acme",
        lane="live",
        causation_id=cause,
        stage=stage,
        control_offset=offset,
    )


def opened(record: Record, kind: str, minute: int) -> Opened:
    entry = Entry(f"live.{kind}", 0, minute, START + timedelta(minutes=minute), b"r1", b"\0\0\0\0\7x", ())
    return Opened(entry, kind, record, None)


PASSAGE = Passage(
    passage_id="p1",
    document_id="lamp",
    namespace="manual",
    number=1,
    digest="d-passage",
    document_digest="d-old",
    score=0.75,
    text=Text(inline=f"The lamp. {EVIL}"),
)
VERDICT = Verdict(
    guard="personal_data",
    stage="filter",
    outcome="changed",
    category="email",
    spans=(Span(kind="email", start_char=3, end_char=9),),
)


def events() -> list[Event]:
    grounding = Grounding(
        question=Text(inline=EVIL),
        passages=(PASSAGE,),
        prompt_name="answer",
        prompt_version="answer@1",
        index_version="i1",
        embedding_model="mini",
    )
    completion = Completion(
        meta=meta("e-completed", "e-enriched", "complete"),
        request=Request(meta=meta("e-asked", "", "producer", -1)),
        admission=Admission(),
        grounding=grounding,
        text=Text(inline=EVIL),
        deployment="spare",
        hedge=Hedge(attempt=1, won=1, after_ms=1234.5, samples=60),
        complexity=Complexity(name="balanced", reasons=("question",), prompt_tokens=70, question="open", spread=0.25),
    )
    answer = Answer(
        meta=meta("e-answer", "e-completed", "filter", 6),
        status="answered",
        question=Text(inline=EVIL),
        text=Text(inline=EVIL),
        passages=(PASSAGE,),
        citations=(Citation(passage_id="p1", document_id="lamp", digest="d-passage"),),
        verdicts=(VERDICT,),
    )
    told = Feedback(meta=meta("e-told", "", "producer", -1), rating=1, correction=Text(inline="forty two"))
    return causal_order(
        [opened(completion, "completions", 1), opened(answer, "answers", 2), opened(told, "feedback", 3)]
    )


def change(offset: int, name: str, *, version: str = "", kind: str = "prompt", removed: bool = False) -> Change:
    record = Control(meta=meta("c", "", "producer"), kind=kind, name=name, version=version, removed=removed)
    return Change(offset, START, record)


def prompt(version: int, text: str) -> StoredPrompt:
    return StoredPrompt(name="answer", version=version, digest=digest_of(text), text=text)


BACKGROUND = Background(
    prompts={"answer@1": prompt(1, f"Be short.\n{EVIL}\n"), "answer@2": prompt(2, f"Be long.\n{EVIL}\n")},
    documents={("acme", "manual", "lamp"): DocumentNow("d-new", "i2", False, "2026-05-02")},
    history=(
        change(2, "answer", version="1"),
        change(3, "stage/enrich", kind="pause"),
        change(5, "stage/enrich", kind="pause", removed=True),
        change(6, "acme/r1", kind="cancel"),
        change(9, "answer", version="2"),
    ),
    erasures=[
        {
            "topic": "live.requests",
            "partition": 0,
            "offset": 3,
            "reason": EVIL,
            "author": "root",
            "erased_at": "2026-05-03",
        }
    ],
)


def origins() -> dict[str, Any]:
    return explained(events(), BACKGROUND, tenant="acme", request_id="r1")


def audited() -> Audit:
    return Audit("r1", ("acme",), events(), Known(), None, None)


def test_the_prompt_that_was_used_is_compared_with_the_one_that_is_live() -> None:
    (shown,) = origins()["prompts"]
    assert (shown["prompt"], shown["current"], shown["is_current"]) == ("answer@1", "answer@2", False)
    assert "-Be short." in shown["diff"].splitlines() and "+Be long." in shown["diff"].splitlines()
    # Where nothing was made live, version 1 is.
    same = explained(events(), replace(BACKGROUND, history=()), tenant="acme", request_id="r1")
    assert same["prompts"][0]["is_current"] and same["prompts"][0]["diff"] is None
    lost = explained(events(), replace(BACKGROUND, prompts={}), tenant="acme", request_id="r1")
    assert lost["prompts"][0]["digest"] is None
    assert prompts_used(events()) == ["answer@1"]


def test_each_passage_is_told_once_with_its_document_as_it_was_and_is() -> None:
    shown = origins()
    assert documents_used(events()) == [("acme", "manual", "lamp")]
    (passage,) = shown["passages"]
    assert (passage["document_digest"], passage["cited"]) == ("d-old", True)
    assert passage["document_now"] == {
        "digest": "d-new",
        "index_version": "i2",
        "deleted": False,
        "indexed_at": "2026-05-02",
        "changed": True,
    }
    assert (shown["index_versions"], shown["embedding_models"]) == (["i1"], ["mini"])


def test_control_is_told_as_it_was_at_each_decision() -> None:
    shown = origins()
    before, after = shown["control"][-2:]
    assert (before["offset"], before["stages"], before["cancelled"]) == (4, ["complete"], False)
    assert {(one["kind"], one["name"], one["version"]) for one in before["live"]} == {
        ("prompt", "answer", "1"),
        ("pause", "stage/enrich", ""),
    }
    assert (after["offset"], after["stages"], after["cancelled"]) == (6, ["filter"], True)
    assert [one["name"] for one in after["live"]] == ["answer"]
    assert shown["control_now"] == 9


def test_verdicts_come_with_their_spans_and_feedback_hangs_under_the_answer() -> None:
    (verdict,) = origins()["verdicts"]
    assert (verdict["event_id"], verdict["spans"][0]["start_char"]) == ("e-answer", 3)
    depths = {event.kind: event.depth for event in events()}
    assert depths == {"completions": 0, "answers": 1, "feedback": 2}


def test_routing_is_told_by_class_and_hedge() -> None:
    shown = origins()
    (routing,) = shown["routing"]
    assert (routing["event_id"], routing["hedge"]["won"]) == ("e-completed", 1)
    assert routing["complexity"]["name"] == "balanced"
    (branch,) = (one for one in tree(audited(), origins=shown).children if str(one.label) == "routing")
    assert [str(one.label) for one in branch.children] == [
        "balanced because of question · to the route itself · 70 tokens, open question, effort none asked for, "
        "0 passages, spread 0.250",
        "hedged after 1234 ms (of 60 calls) by attempt 1 · attempt 1 at spare answered first",
    ]
    assert "Hedged after 1234 ms by attempt 1" in page({**view(audited()), **shown, "lane": "live"})


def test_the_tree_tells_prompts_passages_guards_and_control() -> None:
    branches = {str(one.label): one for one in tree(audited(), origins=origins()).children}
    assert {"prompts", "passages", "guards", "control", "erasures"} < set(branches)
    assert "its document has changed since" in str(branches["passages"].children[1].label)


def test_the_page_is_one_file_without_script_or_address_and_every_text_is_escaped() -> None:
    shown = page({**view(audited()), **origins(), "lane": "live"})
    assert "<script" not in shown and "<img" not in shown
    assert "&lt;script&gt;" in shown
    # Nothing is loaded: no element or style names an address.
    assert not re.search(r"(src|href|action)\s*=|url\(|@import", re.sub(r"&[^;]+;", "", shown).replace(" src=x", ""))
    assert "default-src 'none'" in shown


def test_a_browser_shows_the_page_and_runs_nothing_in_it(tmp_path: Path) -> None:
    file = tmp_path / "audit.html"
    write_page({**view(audited()), **origins(), "lane": "live"}, file)
    assert [one.name for one in tmp_path.iterdir()] == ["audit.html"]
    shown = dump(file, tmp_path)
    assert "<title>Audit of r1</title>" in shown
    # What was text in the file is text in the document.
    assert "<img" not in shown and "<script" not in shown
    assert "now answer@2 is live" in shown.lower() and "live.requests-0@3" in shown
