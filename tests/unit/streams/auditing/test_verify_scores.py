"""Verifying makes the scores by rule again over the recorded answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from processors.claimcheck import part
from schemas.records import Evaluation, Text
from streams.auditing.seen import Seen
from streams.auditing.verify import Scope
from streams.cli.audit_verify import notes, off, view
from tests.support.audited import START, Log, answer, evaluated, verified

SCOPE = Scope(lane="live", since=START, until=None, grace_s=60)


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Seen]:
    with Seen(tmp_path / "seen.sqlite") as store:
        yield store


def changed(evaluation: Evaluation, name: str, **fields: Any) -> Evaluation:
    """The evaluation with another score of this name."""
    scores = tuple(replace(one, **fields) if one.name == name else one for one in evaluation.scores)
    return replace(evaluation, scores=scores)


def test_scores_of_every_kind_of_answer_are_made_again_and_agree(seen: Seen) -> None:
    log = Log(requests=0)
    given = answer(Log(requests=1))
    texts = ("", "One.", "Again. " * 3, "```open", "Of [1] and [7].", "word " * 500, "{}", "{", None)
    for number, text in enumerate(texts):
        meta = replace(given.meta, event_id=f"a{number}", stage="producer")
        said = replace(given, meta=meta, text=None if text is None else Text(inline=text))
        if text is not None and text.startswith("{"):
            said = replace(said, response_format="json_object", finish_reason="length")
        log.add("answers", said)
        # The same answer twice, and an evaluation twice: each score is made again once.
        log.add("answers", said)
        log.add("evaluations", evaluated(said))
        log.add("evaluations", evaluated(said))
    _, counts = verified(log, seen)
    assert (seen.counts()["scores_differ"], counts.scores, counts.rescored) == (0, 36, 36)
    assert not [note for note in notes(SCOPE, counts) if "scores" in note]


def test_a_score_that_its_scorer_does_not_make_is_found(seen: Seen) -> None:
    log = Log()
    right = evaluated(answer(log))
    log.add("evaluations", changed(right, "length", value=0.5))
    log.add("evaluations", changed(right, "format", value=None, failure_code="no_text"))
    log.add("evaluations", changed(right, "format", explanation=Text(inline="passed: all")))
    found, counts = verified(log, seen)
    wrong = [(one.request_id, one.place, one.detail) for one in found if one.kind == "scores_differ"]
    assert wrong == [
        ("r0", "live.evaluations-0@0", "length differs in value"),
        ("r0", "live.evaluations-0@1", "format differs in value, failure_code"),
        ("r0", "live.evaluations-0@2", "format differs in explanation"),
    ]
    assert off(seen.counts()) >= 3 and view(SCOPE, counts, dict(seen.counts()))["scored_again"] == 6


def test_bounds_that_were_set_otherwise_then_are_those_of_then(seen: Seen) -> None:
    log = Log()
    strict = evaluated(answer(log), least_words=50, most_words=60)
    assert next(one for one in strict.scores if one.name == "length").value not in (None, 1.0)
    log.add("evaluations", strict)
    found, counts = verified(log, seen)
    assert (found, counts.rescored) == ([], 2)


def test_a_score_of_another_version_or_scorer_is_counted_and_not_compared(seen: Seen) -> None:
    log = Log()
    right = evaluated(answer(log))
    newer = changed(right, "length", scorer_version="2", value=0.1)
    log.add("evaluations", changed(newer, "format", scorer="another", value=0.1))
    found, counts = verified(log, seen)
    assert (found, counts.scores, counts.rescored) == ([], 2, 0)
    assert [note for note in notes(SCOPE, counts) if note.startswith("2 scores not made again")]


def test_scores_of_an_answer_that_is_not_there_or_whose_text_is_gone_are_counted(seen: Seen) -> None:
    log = Log()
    long = replace(answer(log), text=Text(inline="word " * 1_000))
    away = part(long, 4_000).record
    assert isinstance(away, type(long)) and away.text is not None and away.text.inline is None
    log.replaced("answers", away)
    log.add("evaluations", evaluated(long))
    log.add("evaluations", replace(evaluated(long), answer_event_id="elsewhere"))
    _, counts = verified(log, seen)
    assert (seen.counts()["scores_differ"], counts.scores, counts.rescored) == (0, 4, 0)
