"""Pairing: which events of which lane are compared with which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from schemas.errors import ConfigurationError
from schemas.records import Text
from streams.replay.diff.lanes import both, what_of
from streams.replay.diff.sides import FakeTopics, Sides
from streams.replay.diff.store import Pairs, Side
from streams.replay.run import Place, Run
from tests.support.comparing import CODEC, NOW, answer, evaluation, lying, meta_of, run_of


class Scene:
    def __init__(self, pairs: Pairs, **topics: list[object]) -> None:
        self.pairs, self.unreadable, self.read = pairs, Counter[str](), 0
        found = [one for name, records in topics.items() for one in lying(name.replace("__", "."), records)]
        self.sides = Sides(
            FakeTopics(found),
            CODEC,
            pairs,
            prefix="",
            whole=lambda record, _: record,
            unreadable=self.unreadable,
            count=self.count,
        )

    def count(self, _: object) -> None:
        self.read += 1

    def texts(self, run: Run, against: Run | None = None) -> list[tuple[str, str | None, str | None]]:
        what = both(run, against)
        self.sides.run(Side.RUN, run, what, None)
        if against is None:
            self.sides.live(run, what, None)
        else:
            self.sides.run(Side.BASE, against, what, None)
        return sorted((base.request_id, base.text, now.text) for base, now, _ in self.pairs.pairs())


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    with Pairs() as made:
        yield made


def test_a_requests_answer_is_paired_with_its_latest_revision_in_live_by_tenant(pairs: Pairs) -> None:
    live = [
        answer("a", "first"),
        replace(answer("a", "second"), revision=1),
        # Delivered again, late.
        answer("a", "first"),
        answer("b", "theirs", tenant="globex"),
        answer("c", "not replayed"),
    ]
    run = [answer("a", "now", run="r1"), answer("b", "ours", run="r1"), answer("a", "another run's", run="r2")]
    scene = Scene(pairs, live__answers=live, **{"replay-r1__answers": run})
    assert scene.texts(run_of()) == [("a", "second", "now")]
    [(alone,)] = pairs.rows("SELECT request_id FROM sides WHERE side = 1 AND request_id = 'b' AND tenant = 'acme'")
    assert alone == "b", "the same id of another tenant is another request"


def test_a_backfills_revisions_are_paired_with_what_they_replaced(pairs: Pairs) -> None:
    live = [
        answer("a", "before"),
        replace(answer("a", "backfilled", run="r1", lane="live"), revision=1),
        replace(answer("a", "re-driven later"), revision=2),
    ]
    scene = Scene(pairs, live__answers=live)
    assert scene.texts(run_of(target="live")) == [("a", "before", "backfilled")]


def test_two_runs_are_paired_with_each_other_and_live_plays_no_part(pairs: Pairs) -> None:
    scene = Scene(
        pairs,
        live__answers=[answer("a", "live")],
        **{
            "replay-r1__answers": [answer("a", "one", run="r1"), answer("b", "one", run="r1")],
            "replay-r2__answers": [answer("a", "two", run="r2"), answer("c", "two", run="r2")],
        },
    )
    assert scene.texts(run_of(), run_of("r2")) == [("a", "two", "one")]


def test_scores_count_for_the_very_answer_that_is_compared_and_not_users_opinions(pairs: Pairs) -> None:
    old, new = answer("a", "old"), replace(answer("a", "new", meta=meta_of("a", stage="other")), revision=1)
    ours = answer("a", "now", run="r1")
    scene = Scene(
        pairs,
        live__answers=[old, new],
        live__evaluations=[
            evaluation(new, groundedness=0.9),
            # Late, and of another answer to the same request.
            replace(evaluation(old, groundedness=0.1), revision=1),
            replace(evaluation(new, groundedness=0.0), feedback_event_id="f1"),
        ],
        **{
            "replay-r1__answers": [ours],
            "replay-r1__evaluations": [evaluation(ours, groundedness=0.5)],
        },
    )
    scene.texts(run_of(stages=("filter", "evaluate")))
    assert pairs.scores("acme", "a") == {"groundedness": (0.9, 0.5)}


def test_a_replay_of_evaluate_alone_is_compared_by_its_scores(pairs: Pairs) -> None:
    of = answer("a", "the same text")
    ours = replace(evaluation(of, support=0.75), meta=meta_of("a", run="r1", stage="evaluate"))
    scene = Scene(
        pairs,
        live__evaluations=[evaluation(of, support=0.5)],
        **{"replay-r1__evaluations": [ours]},
    )
    assert scene.texts(run_of(stages=("evaluate",))) == [("a", "support: 0.5", "support: 0.75")]
    assert pairs.scores("acme", "a") == {"support": (0.5, 0.75)}


def test_what_can_not_be_read_is_counted_and_the_rest_goes_on(pairs: Pairs) -> None:
    scene = Scene(
        pairs,
        live__answers=[answer("a", "live")],
        **{"replay-r1__answers": [b"no avro", answer("a", "now", run="r1")]},
    )
    assert scene.texts(run_of()) == [("a", "live", "now")]
    assert scene.unreadable == {"replay-r1.answers": 1}
    assert scene.read == 2


def test_a_run_without_any_output_is_said_to_be_so(pairs: Pairs) -> None:
    with pytest.raises(ConfigurationError, match="left nothing to compare in the lane replay-r1"):
        Scene(pairs).texts(run_of())


def test_texts_that_are_elsewhere_go_by_their_digest(pairs: Pairs) -> None:
    scene = Scene(
        pairs,
        live__answers=[replace(answer("a"), text=Text(ref="sha256:ab"))],
        **{"replay-r1__answers": [replace(answer("a", run="r1"), text=Text(ref="sha256:ab"))]},
    )
    assert scene.texts(run_of()) == [("a", "(sha256:ab)", "(sha256:ab)")]


def test_live_is_read_from_when_the_first_replayed_event_came(pairs: Pairs) -> None:
    scene = Scene(pairs, live__completions=[b"1", b"2", b"3"], live__answers=[b"1"])
    places = (Place(step=0, topic="live.completions", partition=0, first=1, end=3, next=3),)
    begun = scene.sides.begun(places)
    assert begun is not None
    assert (begun - NOW).total_seconds() == 1
    gone = (replace(places[0], topic="live.enrichments.high"),)
    assert scene.sides.begun(gone) is None, "of a topic that is gone no time is known"


def test_what_a_run_shows_is_its_last_stages_output() -> None:
    kinds = {
        ("enrich",): "enrichments",
        ("enrich", "complete", "account"): "completions",
        ("complete", "filter", "account"): "answers",
        ("filter", "evaluate"): "answers",
        ("evaluate",): "evaluations",
        ("account",): "books",
    }
    assert {stages: what_of(run_of(stages=stages)).kind for stages in kinds} == kinds
    with pytest.raises(ConfigurationError, match="put the books right"):
        what_of(run_of(stages=("account",), copies_books=True, target="live"))
    with pytest.raises(ConfigurationError, match="nothing to compare"):
        both(run_of(), run_of("r2", stages=("evaluate",)))
    with pytest.raises(ConfigurationError, match="the run itself"):
        both(run_of(), run_of())
