"""What an audit shows of a cascade and of a fan-out."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from rich.tree import Tree

from schemas.json_view import to_json
from schemas.records import Cascade, CascadeStep, FanOut, FanOutSample
from streams.auditing.page import page
from streams.cli.audit import tree, view
from streams.cli.audit_sections import add_sections
from streams.known import Known
from tests.unit.streams.auditing.test_explain import audited, origins

NOTHING: dict[str, list[object]] = {
    part: [] for part in ("prompts", "index_versions", "passages", "verdicts", "control", "erasures")
}


def shown(*, cascade: Cascade | None = None, fan_out: FanOut | None = None) -> list[str]:
    told = {
        "event_id": "e",
        "deployment": "big",
        "complexity": None,
        "hedge": None,
        "cascade": None if cascade is None else to_json(cascade),
        "fan_out": None if fan_out is None else to_json(fan_out),
    }
    top = Tree("")
    add_sections(top, {**NOTHING, "routing": [told]})
    return [str(one.label) for branch in top.children for one in branch.children]


def test_every_check_is_shown_with_its_figure_and_why_a_reply_stands() -> None:
    weak = CascadeStep(
        deployment="small", outcome="stood", check="groundedness", code="ungrounded", value=0.31, threshold=0.55
    )
    assert shown(cascade=Cascade(outcome="stood", reason="budget", steps=(weak,))) == [
        "attempt 0 at small stood groundedness ungrounded · 0.31, at least 0.55 was wanted",
        "the reply stands all the same: budget",
    ]


def test_every_sample_is_shown_with_its_vote_and_cost() -> None:
    samples = (
        FanOutSample(
            call_id="c0",
            outcome="answered",
            deployment="a",
            used=True,
            group=0,
            attempts=("x",),
            cost_usd=Decimal("0.5"),
        ),
        FanOutSample(number=1, call_id="c1", outcome="failed", code="http_400", cost_usd=Decimal(0)),
    )
    voted = FanOut(aggregate="vote", field="label", needed=1, answered=1, agreement=1.0, samples=samples)
    assert shown(fan_out=voted) == [
        "vote by label · 1 of 2 answered, 1 needed · 100% agree",
        "sample 0 answered · at a · used · votes as sample 0 · 1 attempts · $0.5 · call c0",
        "sample 1 failed · at no deployment · http_400 · 0 attempts · $0 · call c1",
    ]


def test_the_page_shows_both() -> None:
    weak = CascadeStep(deployment="small", outcome="escalated", check="format", code="cut_off")
    told = origins()
    told["routing"][0] |= {
        "cascade": to_json(Cascade(outcome="escalated", steps=(weak,))),
        "fan_out": to_json(FanOut(aggregate="best", answered=1, samples=(FanOutSample(call_id="c0", score=0.5),))),
    }
    html = page({**view(audited()), **told, "lane": "live"})
    assert "Cascade: escalated" in html and "at small escalated format cut_off" in html
    assert "Fan-out by best: 1 of 1 answered" in html and "call c0" in html


def test_an_attempt_is_shown_with_the_sample_that_it_is_of() -> None:
    row = {
        "purpose": "sample",
        "call_ordinal": 2,
        "ordinal": 1,
        "state": "done",
        "deployment": "a",
        "model": "m",
        "started_at": "now",
        "error_code": None,
        "cost_usd": "0.5",
        "booked_usd": "0.5",
        "upper_bound": False,
        "batch_id": None,
    }
    rerated = {**row, "purpose": "completion", "booked_usd": "0.75"}
    found = replace(audited(), known=Known(attempts=(row, rerated)))
    (branch,) = (one for one in tree(found, origins=origins()).children if str(one.label) == "attempts")
    assert [str(one.label) for one in branch.children] == [
        "sample 2 attempt 1 done · a m · now · $0.5",
        "completion 1 done · a m · now · $0.5 · booked at $0.75 since",
    ]
