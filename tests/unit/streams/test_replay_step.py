"""A step of a replay: what becomes of a batch, and what is noted of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from processors.clock import FakeClock
from processors.event import Incoming, Output
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from schemas.codec import Codec
from schemas.errors import DependencyDownError, PoisonError, RefusedError
from schemas.records import Answer, Completion, Text
from streams.outputs import LARGEST_BYTES
from streams.reading import Entry
from streams.replay.backfill import FakeBackfill
from streams.replay.changes import changes_for
from streams.replay.events import Events
from streams.replay.limits import LimitReachedError
from streams.replay.run import Place, Run, RunConfig
from streams.replay.selection import Selection
from streams.replay.sending import FakeSender
from streams.replay.step import Step, StepPorts
from streams.stages import STAGES
from tests.support.replaying import completion

CODEC, NOW = Codec.offline(), datetime(2026, 1, 1, tzinfo=UTC)
TOPIC, STAGE = "live.completions", STAGES["filter"]
Process = Callable[[Incoming[Any]], Awaitable[Sequence[Output]]]


def run_of(**changes: Any) -> Run:
    values: dict[str, Any] = {
        "run": "r1",
        "name": "r1",
        "lane": "replay-r1",
        "source_lane": "live",
        "target": "shadow",
        "stages": ("filter",),
        "config": RunConfig(),
        "code_version": "1",
    }
    return Run(**{**values, **changes})


def entry(offset: int, record: Completion | None = None, **changes: Any) -> Entry:
    value = CODEC.encode(record or completion(offset, "live"))
    values: dict[str, Any] = {"topic": TOPIC, "partition": 0, "offset": offset, "time": NOW, "key": b"k"}
    return Entry(**{**values, "value": value, "headers": (("traceparent", None),), **changes})


class Scene:
    def __init__(
        self,
        process: Process | None = None,
        run: Run | None = None,
        now: Callable[[], datetime] = lambda: NOW,
        **ports: Any,
    ) -> None:
        self.sender, run = FakeSender(), run or run_of()
        changes = changes_for("filter", run.config.sets)
        self.step = Step(
            StepPorts(
                run=run,
                stage=STAGE,
                prefix="",
                tenants=frozenset({"acme"}),
                events=Events(run, STAGE, changes, CODEC, None, first=True),
                processor=process or Filter(policy=FilterPolicy(), clock=FakeClock(NOW)),
                codec=CODEC,
                sender=self.sender,
                now=now,
                selection=Selection(run.config, None, source_lane="live"),
                **ports,
            )
        )
        self.place = Place(step=0, topic=TOPIC, partition=0, first=0, end=100, next=0)

    async def batch(self, *entries: Entry) -> None:
        for place in await self.step.batch(entries, {(TOPIC, 0): self.place}):
            self.place = place

    def answers(self) -> list[Answer]:
        sent = [one for one in self.sender.sent if one.topic.endswith(".answers")]
        return [CODEC.decode(one.value or b"", Answer) for one in sent]


async def test_events_are_answered_in_the_run_s_lane_however_old_they_are() -> None:
    scene = Scene()
    await scene.batch(entry(0), entry(1))
    assert [one.topic for one in scene.sender.sent] == ["replay-r1.answers"] * 2
    answer = scene.answers()[0]
    assert (answer.status, answer.meta.lane, answer.meta.run) == ("answered", "replay-r1", "r1")
    assert answer.meta.causation_id == completion(0, "live").meta.event_id
    assert [verdict.category for verdict in answer.verdicts if verdict.guard == "ttl"] == []
    assert (scene.place.next, scene.place.counts) == (2, {"published": 2})
    assert scene.place.written == {"replay-r1.answers": {0: 2}}


async def test_a_redelivered_event_counts_once() -> None:
    scene = Scene()
    await scene.batch(entry(0), entry(1, completion(0, "live")))
    await scene.batch(entry(2, completion(0, "live")))
    assert len(scene.answers()) == 1
    assert scene.place.counts == {"published": 1, "duplicate": 2}


async def test_what_is_in_the_lane_already_is_not_published_again() -> None:
    first = Scene()
    await first.batch(entry(0))
    again = Scene(known=frozenset({first.answers()[0].meta.event_id}))
    await again.batch(entry(0), entry(1))
    assert [answer.meta.request_id for answer in again.answers()] == ["live-r1"]
    assert again.place.counts == {"published": 2}


async def test_only_what_is_chosen_is_taken_and_the_rest_is_noted() -> None:
    config = RunConfig(where="request_id in (live-r1, live-r2)", offsets=((TOPIC, 0, 2, 5),))
    scene = Scene(run=run_of(config=config))
    await scene.batch(*(entry(offset) for offset in range(4)))
    assert [answer.meta.request_id for answer in scene.answers()] == ["live-r2"]
    assert (scene.place.next, scene.place.counts) == (4, {"published": 1, "not_selected": 3})


async def test_a_sample_is_the_same_every_time_and_grows_with_its_share() -> None:
    async def taken(share: float) -> set[str]:
        scene = Scene(run=run_of(config=RunConfig(sample=share)))
        await scene.batch(*(entry(offset) for offset in range(100)))
        return {answer.meta.request_id for answer in scene.answers()}

    small, large = await taken(0.2), await taken(0.5)
    assert 5 < len(small) < 40
    assert small < large
    assert await taken(0.2) == small


async def test_what_can_not_be_read_is_a_dead_letter_of_the_run() -> None:
    scene = Scene()
    await scene.batch(entry(0, value=b"\0garbage"), entry(1, value=None), entry(2))
    letters = [one for one in scene.sender.sent if one.topic == "replay-r1.dead-letters"]
    assert [dict(one.headers)["headrace.error.replay"] for one in letters] == [b"r1", b"r1"]
    assert scene.place.counts == {"dead_letter": 2, "published": 1}


async def test_a_refused_event_is_answered_as_a_worker_would() -> None:
    async def refuse(incoming: Incoming[Any]) -> Sequence[Output]:
        raise RefusedError("no_way", "no", status="blocked")

    scene = Scene(refuse)
    await scene.batch(entry(0))
    assert [(answer.status, answer.failure and answer.failure.code) for answer in scene.answers()] == [
        ("blocked", "no_way")
    ]
    assert scene.place.counts == {"refused": 1}


async def test_a_poisoned_event_is_buried_and_answered() -> None:
    async def poison(incoming: Incoming[Any]) -> Sequence[Output]:
        raise PoisonError("never")

    scene = Scene(poison)
    await scene.batch(entry(0))
    assert {one.topic for one in scene.sender.sent} == {"replay-r1.answers", "replay-r1.dead-letters"}
    assert scene.answers()[0].status == "failed"


async def test_nothing_is_noted_of_a_batch_that_the_broker_did_not_take() -> None:
    scene = Scene()
    scene.sender.down = True
    with pytest.raises(DependencyDownError):
        await scene.batch(entry(0))
    assert scene.place.next == 0


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_a_stop_finishes_what_is_begun_and_notes_no_more(concurrency: int) -> None:
    begun: list[str] = []

    async def three(incoming: Incoming[Any]) -> bool:
        begun.append(incoming.meta.request_id)
        return len(begun) <= 3

    scene = Scene(begin=three, concurrency=concurrency)
    await scene.batch(entry(0), entry(1), entry(2, value=b"x"), entry(3), entry(4), entry(5, value=b"y"))
    assert scene.step.exhausted
    assert sorted(answer.meta.request_id for answer in scene.answers()) == ["live-r0", "live-r1", "live-r3"]
    # The last one that can't be read comes after what was not begun: it is not noted either.
    assert (scene.place.next, scene.place.counts) == (4, {"published": 3, "dead_letter": 1})


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_an_event_that_the_limit_leaves_no_room_for_ends_the_run_and_is_not_done(concurrency: int) -> None:
    async def second(incoming: Incoming[Any]) -> Sequence[Output]:
        if incoming.meta.request_id == "live-r1":
            raise LimitReachedError
        return await Filter(policy=FilterPolicy(), clock=FakeClock(NOW))(incoming)

    scene = Scene(second, concurrency=concurrency)
    await scene.batch(entry(0), entry(1), entry(2))
    assert (scene.step.exhausted, scene.step.stopping) == (True, True)
    assert [answer.meta.request_id for answer in scene.answers()] == ["live-r0"]
    assert (scene.place.next, scene.place.counts) == (1, {"published": 1})


async def test_a_backfill_publishes_revisions_and_leaves_corrected_answers_alone() -> None:
    backfill = FakeBackfill()
    backfill.final["acme", "live-r0"] = Answer(meta=completion(0, "live").meta, status="failed")
    backfill.corrected.add("live-r1")
    scene = Scene(run=run_of(target="live"), backfill=backfill, now=lambda: datetime.now(UTC))
    await scene.batch(entry(0), entry(1), entry(2))
    assert [one.topic for one in scene.sender.sent] == ["live.answers", "live.answers.acme"] * 2
    found = {answer.meta.request_id: answer for answer in scene.answers()}
    assert set(found) == {"live-r0", "live-r2"}
    assert (found["live-r0"].revision, found["live-r2"].revision) == (1, 0)
    assert found["live-r0"].supersedes == completion(0, "live").meta.event_id
    assert (found["live-r0"].meta.lane, found["live-r0"].meta.run) == ("live", "r1")


@pytest.mark.parametrize(
    ("before", "now", "published"),
    [
        ("answered", "rejected", False),
        ("answered", "failed", False),
        ("answered", "expired", False),
        # A guard decided that it is not to be read any more.
        ("answered", "blocked", True),
        ("failed", "rejected", True),
        ("blocked", "failed", True),
    ],
)
async def test_a_backfill_takes_no_answer_away_but_by_a_guard(before: str, now: str, published: bool) -> None:
    async def refuse(incoming: Incoming[Any]) -> Sequence[Output]:
        raise RefusedError("prompt_variable_missing", "variable x is missing", status=now)

    backfill = FakeBackfill()
    backfill.final["acme", "live-r0"] = Answer(meta=completion(0, "live").meta, status=before)
    scene = Scene(refuse, run=run_of(target="live"), backfill=backfill)
    await scene.batch(entry(0))
    assert [answer.status for answer in scene.answers()] == ([now] if published else [])
    assert list(backfill.left.values()) == ([] if published else ["not_answered"])
    assert backfill.final["acme", "live-r0"].status == (now if published else before)


@pytest.mark.parametrize(("minutes", "published"), [(14, False), (15, True)])
async def test_a_backfill_leaves_what_its_lane_may_still_be_answering(minutes: int, published: bool) -> None:
    record = completion(0, "live")
    assert record.request.ttl_ms == 5 * 60_000
    waiting = replace(record, meta=replace(record.meta, accepted_at=NOW))
    backfill = FakeBackfill()
    later = NOW + timedelta(minutes=minutes)
    scene = Scene(run=run_of(target="live"), backfill=backfill, now=lambda: later)
    await scene.batch(entry(0, waiting))
    assert len(scene.answers()) == published
    assert list(backfill.left.values()) == ([] if published else ["in_flight"])


async def test_a_backfill_waits_for_the_corrections_that_were_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.replay.step.PAUSE_S", 0)
    backfill, looks = FakeBackfill(), list[int]()
    backfill.final["acme", "live-r0"] = Answer(meta=completion(0, "live").meta, status="failed")
    place = ("live.feedback", 0)

    def feedback() -> dict[tuple[str, int], tuple[int, int]]:
        # More comes in all the time; what the stage stores of the first nine decides.
        looks.append(5 + 2 * len(looks))
        if looks[-1] >= 9:
            backfill.corrected.add("live-r0")
        return {place: (looks[-1], 9 + 10 * len(looks) - 10)}

    scene = Scene(run=run_of(target="live"), backfill=backfill, feedback=feedback)
    await scene.batch(entry(0))
    assert (looks, scene.answers(), list(backfill.left.values())) == ([5, 7, 9], [], ["corrected"])


async def test_a_backfill_replaces_nothing_while_corrections_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.replay.step.PAUSE_S", 0)
    backfill = FakeBackfill()
    backfill.final["acme", "live-r0"] = Answer(meta=completion(0, "live").meta, status="failed")
    behind = {("live.feedback", 0): (5, 9)}
    scene = Scene(run=run_of(target="live"), backfill=backfill, feedback=lambda: behind)
    with pytest.raises(DependencyDownError, match="4 events of feedback"):
        await scene.batch(entry(0))
    assert (scene.sender.sent, backfill.given, scene.place.next) == ([], {}, 0)
    # What publishes nothing has no need to wait.
    await scene.batch(entry(1, value=b"garbage"))
    assert scene.place.counts == {"dead_letter": 1}


async def test_a_field_that_is_set_is_seen_in_the_answer() -> None:
    scene = Scene(run=run_of(config=RunConfig(sets={"request.feature": "other"})))
    await scene.batch(entry(0))
    assert scene.answers()[0].feature == "other"


async def test_an_attempt_that_fails_by_chance_is_made_again() -> None:
    left = [ValueError("once")]

    async def sometimes(incoming: Incoming[Any]) -> Sequence[Output]:
        if left:
            raise left.pop()
        return [Answer(meta=incoming.child("filter", "1"), status="answered")]

    scene = Scene(sometimes)
    await scene.batch(entry(0))
    assert scene.place.counts == {"published": 1}


async def test_an_output_that_no_topic_takes_ends_its_event_and_not_the_run() -> None:
    async def long(incoming: Incoming[Any]) -> Sequence[Output]:
        text = "x" * (LARGEST_BYTES if incoming.meta.request_id == "live-r0" else 1)
        return [Answer(meta=incoming.child("filter", "1"), status="answered", text=Text(inline=text))]

    for backfill in (None, FakeBackfill()):
        # Of a backfill, requests that their lane had its time to answer.
        scene = Scene(long, backfill=backfill, now=lambda: datetime.now(UTC))
        await scene.batch(entry(0), entry(1))
        assert scene.place.counts == {"dead_letter": 1, "published": 1}
        assert scene.place.next == 2
        assert [answer.status for answer in scene.answers()] == ["failed", "answered"]
        assert [one.topic for one in scene.sender.sent if one.topic.endswith("dead-letters")] == [
            "replay-r1.dead-letters"
        ]
