"""What the evaluate stage does with answers and feedback, with fakes for Postgres and the embedding endpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest

from processors.evaluate import EvaluatePolicy, SamplingPolicy
from schemas.errors import DependencyDownError, PermanentProviderError, PoisonError
from schemas.records import Evaluation, Score, Text
from tests.support.evaluating import CODEC, Bench, answer, bytes_of, feedback

EVERY = SamplingPolicy(rate=1.0)


def evaluation(outputs: list[object]) -> Evaluation:
    (value,) = bytes_of(outputs)  # type: ignore[arg-type]
    return CODEC.decode(value, Evaluation)


def by_name(found: Evaluation) -> dict[str, Score]:
    return {score.name: score for score in found.scores}


async def test_a_sampled_answer_gets_every_score_with_its_scorer_version_and_reason() -> None:
    bench = Bench()
    found = evaluation(await bench.take(answer()))
    scores = by_name(found)
    assert set(scores) == {"groundedness", "support", "relevance", "length", "format"}
    assert all(one.scorer and one.scorer_version and one.explanation for one in scores.values())
    assert scores["groundedness"].value == pytest.approx(1.0)
    assert (found.sampling_probability, found.sampled_by, found.answer_event_id) == (
        1.0,
        "rate",
        answer().meta.event_id,
    )
    assert (found.route, found.model, found.team, found.prompt_version) == ("default", "m", "docs", "answer@1")
    assert found.meta.causation_id == answer().meta.event_id and found.meta.accepted_at == answer().meta.accepted_at
    assert (bench.observed.expected, bench.observed.done) == (1, ["scored"])


async def test_a_redelivery_publishes_the_same_bytes_and_embeds_and_counts_nothing_again() -> None:
    bench = Bench()
    first = await bench.take(answer())
    embedded = len(bench.embedder.embedded)
    again = await bench.take(answer(), control_offset=99)
    assert bytes_of(again) == bytes_of(first)
    assert len(bench.embedder.embedded) == embedded
    assert (bench.observed.expected, bench.observed.done) == (1, ["scored"])


async def test_an_answer_waits_for_an_endpoint_that_is_away_and_is_expected_once() -> None:
    bench = Bench()
    for _ in range(3):
        bench.embedder.failure = DependencyDownError("embeddings", "away")
        with pytest.raises(DependencyDownError):
            await bench.take(answer())
    assert (bench.observed.expected, bench.observed.done) == (1, [])
    await bench.take(answer())
    assert (bench.observed.expected, bench.observed.done) == (1, ["scored"])


async def test_an_endpoint_that_refuses_leaves_the_answer_expected_and_publishes_no_part_of_it() -> None:
    bench = Bench()
    bench.embedder.failure = PermanentProviderError("http_401", "no")
    with pytest.raises(PermanentProviderError):
        await bench.take(answer())
    assert (bench.observed.expected, bench.observed.done) == (1, [])


@pytest.mark.parametrize("status", ["rejected", "blocked", "failed", "expired"])
async def test_what_was_not_answered_is_not_expected(status: str) -> None:
    bench = Bench()
    assert await bench.take(answer(None, status=status)) == []
    assert bench.observed.expected == 0


@pytest.mark.parametrize(
    ("changes", "name", "code"),
    [
        ({"passages": ()}, "groundedness", "no_passages"),
        ({"passages": ()}, "support", "no_passages"),
        ({"text": None}, "groundedness", "no_text"),
        ({"text": None}, "length", "no_text"),
        ({"text": Text(ref="sha256:0")}, "format", "no_text"),
        ({"text": Text(inline="…!?")}, "groundedness", "no_sentences"),
        ({"text": Text(inline="{}"), "response_format": "json_object"}, "groundedness", "structured"),
        ({"question": None}, "relevance", "no_question"),
    ],
)
async def test_what_can_not_be_scored_says_why_and_has_no_number(
    changes: dict[str, object], name: str, code: str
) -> None:
    bench = Bench()
    score = by_name(evaluation(await bench.take(replace(answer(), **changes))))[name]  # type: ignore[arg-type]
    assert (score.value, score.failure_code) == (None, code)
    assert score.explanation is not None and score.explanation.inline
    assert bench.observed.done in (["partial"], ["unscored"])


async def test_the_least_grounded_sentence_is_named_by_its_place_and_never_quoted() -> None:
    said = "The with statement wraps a block. Zebras graze on purple moonlight."
    scores = by_name(evaluation(await Bench().take(answer(said))))
    start = said.index("Zebras")
    for name in ("groundedness", "support"):
        why = scores[name].explanation
        assert why is not None and why.inline is not None
        assert f"sentence 2 (characters {start} to {len(said)})" in why.inline
        assert "zebra" not in why.inline.lower()
    assert 0.4 < (scores["groundedness"].value or 0) < 0.8
    assert scores["support"].value == pytest.approx(0.5)


async def test_a_number_that_no_passage_holds_lowers_support_and_is_counted() -> None:
    scores = by_name(evaluation(await Bench().take(answer("Python 2.5 brought it in 1999."))))
    why = scores["support"].explanation
    assert why is not None and "1 numbers that no passage holds" in (why.inline or "")
    assert (scores["support"].value or 0) < 1


async def test_format_names_the_checks_that_fail() -> None:
    circles = "It wraps a block of code. " * 4 + "See [7]. ```py"
    changed = answer(circles, finish_reason="length")
    score = by_name(evaluation(await Bench().take(changed)))["format"]
    assert score.value == 0
    assert score.explanation == Text(inline="failed: ended, no circles, closed fences, marks")
    good = by_name(evaluation(await Bench().take(answer("It wraps a block [1].", request_id="r2"))))["format"]
    assert good.value == 1
    broken = answer("{", response_format="json_object")
    assert by_name(evaluation(await Bench().take(broken)))["format"].value == 0.5


@pytest.mark.parametrize(("words", "value"), [(1, 1 / 3), (3, 1.0), (400, 1.0), (800, 0.5)])
async def test_length_is_whole_within_its_bounds_and_a_share_outside(words: int, value: float) -> None:
    found = by_name(evaluation(await Bench().take(answer(" ".join(["word"] * words)))))
    assert found["length"].value == pytest.approx(value, abs=1e-4)


async def test_what_is_embedded_for_an_answer_is_paid_on_behalf_of_who_asked() -> None:
    bench = Bench()
    await bench.take(answer())
    [payer] = {id(one): one for one in bench.embedder.payers}.values()
    assert payer is not None and len(bench.embedder.payers) == len(bench.embedder.embedded)
    assert (payer.stage, payer.team, payer.route, payer.prompt_version) == ("evaluate", "docs", "default", "answer@1")
    assert payer.attempt(0).causation_id == answer().meta.event_id


async def test_scorers_that_are_off_leave_no_score_and_need_no_endpoint() -> None:
    bench = Bench(policy=EvaluatePolicy(sampling=EVERY, groundedness=False, relevance=False, support=False))
    assert set(by_name(evaluation(await bench.take(answer())))) == {"length", "format"}
    assert bench.embedder.embedded == []


async def test_feedback_is_joined_to_its_answer() -> None:
    bench = Bench()
    bench.final(answer())
    outputs = await bench.take(feedback(2, comment=Text(inline="a secret"), user="u-told"))
    found = evaluation(outputs)
    (score,) = found.scores
    assert (score.scorer, score.name, score.value) == ("user-feedback", "user_rating", 0.25)
    assert score.explanation == Text(inline="rated 2 of 5; with a comment")
    assert (found.feedback_event_id, found.answer_event_id) == ("f-1", answer().meta.event_id)
    assert (found.sampled_by, found.user, found.route) == ("feedback", "u-told", "default")
    assert found.meta.causation_id == "f-1"
    assert bench.observed.feedback == ["joined"]
    assert bytes_of(await bench.take(feedback(2, comment=Text(inline="a secret"), user="u-told"))) == bytes_of(outputs)
    assert bench.observed.feedback == ["joined"]


async def test_feedback_that_comes_first_waits_and_is_joined_by_the_answer() -> None:
    bench = Bench(policy=EvaluatePolicy(sampling=SamplingPolicy(rate=0)))
    assert await bench.take(feedback(5)) == []
    assert bench.observed.feedback == ["waiting"]
    bench.final(answer())
    outputs = await bench.take(answer())
    assert evaluation(outputs).scores[0].value == 1.0
    assert bench.observed.feedback == ["waiting", "joined"]
    # A crash after it was stored: both inputs come again, and both give the same bytes.
    assert bytes_of(await bench.take(answer(), control_offset=9)) == bytes_of(outputs)
    assert bytes_of(await bench.take(feedback(5), control_offset=9)) == bytes_of(outputs)


async def test_feedback_that_names_an_answer_waits_for_that_one() -> None:
    bench = Bench(policy=EvaluatePolicy(sampling=SamplingPolicy(rate=0)))
    first, second = answer(), answer(revision=1, supersedes="e")
    bench.final(first)
    named = feedback(1, answer_event_id=second.meta.event_id)
    assert await bench.take(named) == []
    assert await bench.take(first) == []
    bench.final(second)
    found = evaluation(await bench.take(second))
    assert (found.answer_event_id, found.revision) == (second.meta.event_id, 1)


async def test_a_later_revision_does_not_take_over_feedback_of_the_one_before() -> None:
    bench = Bench(policy=EvaluatePolicy(sampling=SamplingPolicy(rate=0)))
    bench.final(answer())
    await bench.take(feedback())
    second = answer(revision=1, supersedes="e")
    bench.final(second)
    assert await bench.take(second) == []


async def test_feedback_without_a_rating_is_joined_without_a_number() -> None:
    bench = Bench()
    bench.final(answer())
    (score,) = evaluation(await bench.take(feedback(None, correction=Text(inline="It wraps.")))).scores
    assert (score.value, score.failure_code) == (None, "no_rating")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rating": 0}, "feedback.rating"),
        ({"rating": 6}, "feedback.rating"),
        ({"rating": None}, "no rating"),
        ({"comment": Text()}, "feedback.comment"),
        ({"meta": {"request_id": ""}}, "request_id"),
        ({"meta": {"tenant": "a\x00b"}}, "tenant"),
        ({"meta": {"event_id": "x" * 401}}, "event_id"),
        ({"meta": {"lane": "other"}}, "lane"),
        ({"meta": {"run": "replay-1"}}, "run"),
        ({"answer_event_id": ""}, "answer_event_id"),
        ({"labels": ("x",) * 65}, "labels"),
    ],
)
async def test_feedback_that_can_not_be_taken_is_poison_that_names_the_field(
    changes: dict[str, object], named: str
) -> None:
    bench = Bench()
    with pytest.raises(PoisonError, match=named):
        await bench.take(feedback(**{"rating": 3, **changes}))  # type: ignore[arg-type]
    assert not bench.store.feedback


async def test_one_id_can_not_stand_for_two_opinions() -> None:
    bench = Bench()
    await bench.take(feedback(1))
    with pytest.raises(PoisonError, match="event_id"):
        await bench.take(feedback(5))
    with pytest.raises(PoisonError, match="event_id"):
        await bench.take(feedback(1, request_id="r2"))
