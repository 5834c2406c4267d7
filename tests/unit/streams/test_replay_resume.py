"""What a resumed step knows of what was done, and how far back it looks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from streams.reading import Entry, Stretch, TopicReader
from streams.reading import Place as TopicPlace
from streams.replay.changes import changes_for
from streams.replay.events import Events
from streams.replay.lane import already_written
from streams.replay.lately import LOOKED_BACK, behind, remember
from streams.replay.remembered import Remembered
from streams.replay.run import Place, RunConfig
from streams.replay.selection import Selection
from tests.support.replaying import completion
from tests.support.settings import bare_settings
from tests.unit.streams.test_replay_step import CODEC, STAGE, TOPIC, Scene, entry, run_of

ANSWERS, SETTINGS = "replay-r1.answers", bare_settings()


class Reader:
    """Topics of one partition each, with their ends; keeps what was asked for."""

    def __init__(self, **ends: int) -> None:
        self._ends = {f"replay-r1.{kind}": end for kind, end in ends.items()}
        self.asked: dict[TopicPlace, Stretch] = {}

    def existing(self, topics: Any) -> dict[str, int]:
        return {topic: 1 for topic in topics if topic in self._ends}

    def places(self, topics: Any) -> list[TopicPlace]:
        return [(topic, 0) for topic in topics]

    def ends(self, places: Any) -> dict[TopicPlace, Stretch]:
        return {place: Stretch(0, self._ends.get(place[0], 10**9)) for place in places}

    def read(self, stretches: Mapping[TopicPlace, Stretch]) -> list[Entry]:
        self.asked = dict(stretches)
        return []


def place(number: int, next_: int, end: int, *, step: int = 0, **written: int) -> Place:
    noted = {f"replay-r1.{kind}": {0: offset} for kind, offset in written.items()}
    return Place(step=step, topic=TOPIC, partition=number, first=0, end=end, next=next_, written=noted)


def looked_at(reader: Reader, *places: Place, earlier: tuple[Place, ...] = (), **run: Any) -> dict[str, Stretch]:
    already_written(cast("TopicReader", reader), SETTINGS, run_of(**run), places, earlier=earlier)
    return {topic: stretch for (topic, _), stretch in reader.asked.items()}


def test_a_partition_that_is_done_does_not_hold_a_resume_back() -> None:
    reader = Reader(answers=1_000_000)
    found = looked_at(reader, place(0, 100, 100, answers=100), place(1, 900, 1_000, answers=999_000))
    assert found == {ANSWERS: Stretch(999_000, 1_000_000)}


def test_a_resume_looks_at_what_its_step_writes_and_not_at_what_was_before() -> None:
    reader, before = Reader(enrichments=500, completions=700, costs=400), place(0, 9, 9, completions=700, costs=390)
    stages = ("complete", "filter", "account")
    found = looked_at(reader, place(0, 1, 9, step=0), stages=stages)
    assert found == {"replay-r1.completions": Stretch(0, 700), "replay-r1.costs": Stretch(0, 400)}
    reader.asked = {}
    assert looked_at(reader, place(0, 1, 9, step=1), earlier=(before,), stages=stages) == {}


async def test_a_first_leader_notes_for_every_partition_how_far_it_wrote() -> None:
    scene, other = Scene(), place(1, 0, 100)
    after = await scene.step.batch([entry(0), entry(1)], {(TOPIC, 0): scene.place, (TOPIC, 1): other})
    assert [(one.partition, one.next, one.written) for one in after] == [
        (0, 2, {ANSWERS: {0: 2}}),
        (1, 0, {ANSWERS: {0: 2}}),
    ]
    again = Scene(known=frozenset({"an output that may be the other partition's"}))
    after = await again.step.batch([entry(0)], {(TOPIC, 0): again.place, (TOPIC, 1): other})
    assert [one.partition for one in after] == [0]


def test_only_the_last_events_that_are_done_are_looked_at() -> None:
    found = behind(cast("TopicReader", Reader()), [place(0, 25_000, 30_000), place(1, 0, 50), place(2, 7, 50)])
    assert [(one.partition, one.next, one.end) for one in found] == [
        (0, 25_000 - LOOKED_BACK, 25_000),
        (2, 0, 7),
    ]


async def remembered(config: RunConfig, *offsets: int) -> Remembered:
    seen, run = Remembered(), run_of(config=config)
    events = Events(run, STAGE, changes_for("filter", {}), CODEC, None, first=True)
    batch = [
        entry(offset, completion(0, "live"), headers=(("ce_id", completion(0, "live").meta.event_id.encode()),))
        for offset in offsets
    ]
    batch.append(entry(50, value=b"no event", headers=()))
    await remember(batch, seen, events, config, Selection(config, None, source_lane="live"))
    return seen


async def test_an_event_that_was_passed_over_is_no_duplicate_when_it_is_taken_elsewhere() -> None:
    config, event_id = RunConfig(offsets=((TOPIC, 0, 9, 9),)), completion(0, "live").meta.event_id
    assert (await remembered(config, 5)).add(event_id), "offset 5 was not selected"
    assert not (await remembered(config, 5, 9)).add(event_id), "offset 9 was"
    assert not (await remembered(RunConfig(), 5)).add(event_id), "all are"


async def test_what_was_taken_before_a_resume_is_a_duplicate_after_it() -> None:
    scene = Scene()
    scene.step.seen.add(completion(0, "live").meta.event_id)
    await scene.batch(entry(9, completion(0, "live")))
    assert scene.place.counts == {"duplicate": 1}
