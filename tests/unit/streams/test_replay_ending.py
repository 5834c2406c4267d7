"""Cancelling and deleting runs, and ranges that retention has cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from schemas.errors import ConfigurationError, FencedError
from streams.reading import Place as TopicPlace
from streams.reading import Stretch, TopicReader
from streams.replay import desk as desks
from streams.replay.desk import Desk
from streams.replay.plan import Planner
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
    """A topic with one event in partition 0, an hour old, and a partition 1 that is as given."""

    def __init__(self, other: Stretch) -> None:
        self._bounds = {0: Stretch(0, 1), 1: other}

    def places(self, topics: Any) -> list[TopicPlace]:
        return [(topic, number) for topic in topics for number in self._bounds]

    def ends(self, places: Any) -> dict[TopicPlace, Stretch]:
        return {place: self._bounds[place[1]] for place in places}

    def offsets_at(self, places: Any, _: datetime) -> dict[TopicPlace, int]:
        return {place: self._bounds[place[1]].end if place[1] else 0 for place in places}

    def read(self, _: Mapping[TopicPlace, Stretch]) -> list[Any]:
        return []


def planned(since: timedelta, other: Stretch) -> int:
    planner = Planner(SETTINGS, cast("TopicReader", Reader(other)), "live")
    return len(planner.places("filter", RunConfig(since=datetime.now(UTC) - since)))


def test_a_partition_that_retention_emptied_may_have_had_events_of_the_range() -> None:
    kept = timedelta(milliseconds=SETTINGS.retention.resolved().topic_ms("completions"))
    with pytest.raises(ConfigurationError, match=r"partition 1 is empty.*begin there"):
        planned(kept + timedelta(hours=1), Stretch(7, 7))
    assert planned(kept - timedelta(hours=1), Stretch(7, 7)) == 1, "what is that young was not removed"
    assert planned(kept + timedelta(hours=1), Stretch(0, 0)) == 1, "it never had one"
