"""What is compared of a completion, an enrichment and a pair of texts; and what the commands refuse."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Verdict
from streams.replay.diff.compare import compare, edit_similarity, score_change, verdict_changes
from streams.replay.diff.lanes import What
from streams.replay.diff.plots import Axis, bars
from streams.replay.diff.said import GOOD, Said, of_answer, of_completion, of_enrichment
from tests.support.commands import run_headrace
from tests.support.comparing import answer, meta_of
from tests.support.enrichments import enrichment
from tests.support.replaying import TEXT, completion


def test_a_completion_is_compared_before_the_filter() -> None:
    one = completion(1, "live", cost_usd=Decimal("0.25"), avoided_cost_usd=Decimal("0.5"), duration_ms=12.5)
    said = of_completion(one)
    assert (said.status, said.text, said.latency_ms) == ("completed", TEXT, 12.5)
    assert (said.price_pico, said.paid_pico) == (750_000_000_000, 250_000_000_000)
    assert (said.feature, said.prompt, said.route) == ("docs", "answer@1", "default")


def test_an_enrichment_is_compared_by_its_messages_and_passages() -> None:
    said = of_enrichment(enrichment("r1", "What now?"))
    assert said.status in GOOD
    assert said.text is not None and "What now?" in said.text


def test_what_is_kept_comes_back_as_it_was() -> None:
    said = of_answer(answer("r1", "Ünicode \x00 and 💧"))
    assert Said.decode(said.encode()) == said


def test_before_the_filter_only_the_failures_of_the_stage_itself_count() -> None:
    what = What("completions", scored=False)
    ended = answer("a", None, meta=meta_of("a", stage="complete"))
    assert (what.says(answer("a")), what.says(ended)) == (None, of_answer(ended))


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_edit_similarity_is_of_both_alike_and_whole_for_the_same_text(one: str, other: str) -> None:
    there = edit_similarity(one, other)
    assert there == edit_similarity(other, one)
    assert there is not None and 0 <= there <= 1
    assert (there == 1) == (one == other)


def test_known_edit_similarities() -> None:
    # Two insertions and two deletions of 13 characters.
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 5 / 13)
    assert edit_similarity("abc", "xyz") == 0
    assert edit_similarity(None, "text") is None


def test_the_change_of_scores_is_of_those_that_both_have_and_no_users_rating() -> None:
    scores = {"a": (0.5, 0.7), "b": (None, 0.9), "c": (0.5, None), "user_rating": (1.0, 0.0), "d": (1.0, 0.6)}
    assert score_change(scores) == pytest.approx(-0.1)
    assert score_change(scores, ("a",)) == pytest.approx(0.2)
    assert score_change({"b": (None, 0.9)}) is None


def test_a_status_goes_before_scores_and_small_changes_go_neither_way() -> None:
    good, bad = of_answer(answer("a")), of_answer(answer("a", None))

    def direction(base: Said, run: Said, **scores: tuple[float, float]) -> int:
        return compare(base, run, scores, decide=(), tolerance=0.05).direction

    assert direction(good, bad, a=(0.1, 0.9)) == -1
    assert direction(bad, good, a=(0.9, 0.1)) == 1
    assert direction(good, good, a=(0.50, 0.54)) == 0
    assert direction(good, good, a=(0.50, 0.44)) == -1
    assert direction(bad, bad) == 0


def test_guards_are_compared_by_what_they_found() -> None:
    found = (Verdict(guard="pii", outcome="changed", category="email"), Verdict(guard="late", outcome="pass"))
    base, run = of_answer(answer("a")), of_answer(answer("a", verdicts=found))
    assert list(verdict_changes(base, run)) == [("late", "none", "pass"), ("pii", "pass", "changed email")]


def test_axes_have_round_marks_within_their_ends() -> None:
    marks = Axis(-0.33, 0.33, 0, 660).marks()
    assert [(mark.label, mark.at) for mark in marks] == [("-0.2", 130.0), ("0", 330.0), ("0.2", 530.0)]
    assert [mark.label for mark in Axis(0, 5_000, 0, 1).marks()] == ["0", "1000", "2000", "3000", "4000", "5000"]
    assert Axis(0, 1, 100, 0).at(7) == 0
    assert [mark.label for mark in Axis(3, 3, 0, 10).marks()] == ["3"]
    assert [bar["height"] for bar in bars([0, 5, 10], left=0, right=30, floor=100, height=50)] == [0, 25, 50]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "name a bound, e.g. --min-score"),
        ((), "--max-latency-increase"),
        (("--min-score", "=0.5"), "write NAME=VALUE"),
        (("--min-score", "groundedness=high"), "scores are from 0 to 1"),
        (("--max-score-drop", "2"), "scores are from 0 to 1"),
        (("--max-cost-increase", "-5%"), "a percentage such as 10%"),
        (("--max-regressions", "nan"), "a percentage such as 10%"),
        (("--max-regressions", "1", "--html", "/nowhere/at/all.html"), "make it first"),
        (("--max-regressions", "1", "--min-pairs", "0"), "min-pairs"),
    ],
)
def test_bounds_that_can_not_be_read_are_refused_before_anything_is_asked(
    options: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    ran = run_headrace("replay", "gate", "r1", *options, environment={"HEADRACE_CONFIG": str(tmp_path / "none.toml")})
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
