"""Cancelling and deleting runs, and ranges that retention has cut off."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from schemas.errors import ConfigurationError, FencedError
from streams.reading import Place as TopicPlace
from streams.reading import Stretch, TopicReader
from streams.replay import desk as desks
from streams.replay.desk import Desk
from streams.replay.plan import Planner, times
from streams.replay.run import RunConfig
from streams.replay.runs import FakeRuns
from tests.support.polling import turns, until
from tests.support.settings import bare_settings
from tests.unit.streams.test_replay_step import run_of

SETTINGS = bare_settings()


async def test_a_cancelled_run_is_deleted_only_when_its_leader_has_come_to_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    removed: list[str] = []
    monkeypatch.setattr(desks, "remove_topics", lambda _, lane: removed.append(lane) or removed)
    monkeypatch.setattr(desks, "LOOK_S", 0.01)
    runs, run = FakeRuns(), run_of()
    desk = Desk(SETTINGS, cast("Any", None), runs, cast("Any", None))
    await runs.create(run, [])
    epoch = await runs.take(run.run, owner="leader")
    assert epoch is not None
    with pytest.raises(ConfigurationError, match="cancel r1 first"):
        await desk.delete(await desk.find("r1"))
    assert await desk.cancel(run)
    with pytest.raises(FencedError):
        await runs.renew(run.run, epoch)
    monkeypatch.setattr(desks, "REST_S", 0.0)
    with pytest.raises(ConfigurationError, match="leader still finishes"):
        await desk.delete(await desk.find("r1"))
    monkeypatch.setattr(desks, "REST_S", 60.0)
    deleting = asyncio.ensure_future(desk.delete(await desk.find("r1")))
    await turns()
    assert not removed, "the leader may still write"
    await runs.release(run.run, epoch + 1)
    assert runs.runs[run.run].lease_s, "another's epoch"
    await runs.release(run.run, epoch)
    await until(deleting.done, "it is deleted")
    assert removed == ["replay-r1"]
    assert not runs.runs


class Reader:
    """A topic of which retention removed the first events: what is left, by partition, and when it came."""

    def __init__(self, left: Mapping[int, tuple[int, Sequence[datetime]]]) -> None:
        self._left = left
        self._bounds = {number: Stretch(first, first + len(came)) for number, (first, came) in left.items()}

    def places(self, topics: Any) -> list[TopicPlace]:
        return [(topic, number) for topic in topics for number in self._bounds]

    def ends(self, places: Any) -> dict[TopicPlace, Stretch]:
        return {place: self._bounds[place[1]] for place in places}

    def offsets_at(self, places: Any, since: datetime) -> dict[TopicPlace, int]:
        return {
            (topic, number): self._left[number][0] + sum(time < since for time in self._left[number][1])
            for topic, number in places
        }

    def read(self, stretches: Mapping[TopicPlace, Stretch]) -> list[Any]:
        return [
            SimpleNamespace(time=time)
            for (_, number), stretch in stretches.items()
            for offset, time in enumerate(self._left[number][1], self._left[number][0])
            if stretch.start <= offset < stretch.end
        ]


def planned(since: timedelta | str, left: Mapping[int, tuple[int, Sequence[datetime]]]) -> int:
    """How many partitions are read."""
    now = datetime.now(UTC)
    first = now - since if isinstance(since, timedelta) else times(since, None, now=now)[0]
    planner = Planner(SETTINGS, cast("TopicReader", Reader(left)), "live")
    return len(planner.places("filter", RunConfig(since=first)))


def advised(since: timedelta | str, left: Mapping[int, tuple[int, Sequence[datetime]]]) -> str:
    """The time at which a refused replay is told to begin."""
    with pytest.raises(ConfigurationError, match="before what retention has left") as refused:
        planned(since, left)
    return re.findall(r"\d{4}-[^;\s]*Z", str(refused.value))[-1]


def test_a_partition_that_retention_emptied_may_have_had_events_of_the_range() -> None:
    kept = timedelta(milliseconds=SETTINGS.retention.resolved().topic_ms("completions"))
    recent = (0, [datetime.now(UTC) - timedelta(hours=1)])
    early, young = kept + timedelta(hours=1), kept - timedelta(hours=1)
    with pytest.raises(ConfigurationError, match=r"partition 1 is empty.*; begin at "):
        planned(early, {0: recent, 1: (7, [])})
    assert planned(young, {0: recent, 1: (7, [])}) == 1, "what is that young was not removed"
    assert planned(early, {0: recent, 1: (0, [])}) == 1, "it never had one"
    told = advised(early, {0: recent, 1: (7, [])})
    assert planned(told, {0: recent, 1: (7, [])}) == 1
    in_time = datetime.fromisoformat(told) - timedelta(minutes=4)
    assert in_time > datetime.now(UTC) - kept, "it is still accepted when it was written minutes later"


def test_a_replay_that_begins_when_it_is_told_to_is_accepted_at_once() -> None:
    begin = datetime(2026, 5, 1, 10, 0, 5, 300_000, tzinfo=UTC)
    later = [begin + timedelta(seconds=2, milliseconds=601), begin + timedelta(seconds=9)]
    left = {0: (3, [begin, later[1]]), 1: (4, later), 2: (0, [begin - timedelta(days=1), later[0]])}
    told = advised("2026-05-01T09:00", left)
    assert told == "2026-05-01T10:00:07.901Z", "the latest beginning, for before it some of partition 1 is gone"
    assert planned(told, left) == 3
    assert advised("2026-05-01T10:00:05.300Z", left) == told, "where another partition begins is too early"


def test_what_is_left_and_what_was_emptied_are_advised_of_together() -> None:
    now = datetime.now(UTC)
    kept = timedelta(milliseconds=SETTINGS.retention.resolved().topic_ms("completions"))
    left = {0: (3, [now - kept + timedelta(seconds=1), now]), 1: (7, [])}
    assert planned(advised(kept + timedelta(days=1), left), left) == 1
