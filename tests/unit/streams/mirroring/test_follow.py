"""What a mirror finds when it looks for what has come since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from schemas.errors import ConfigurationError
from streams.mirroring.follow import chunks, extended, starting_places
from streams.reading import Entry, Stretch, TopicReader
from streams.reading import Place as TopicPlace
from streams.replay.run import Place
from tests.support.settings import bare_settings
from tests.unit.streams.test_replay_step import entry, run_of

TOPIC, SETTINGS = "live.completions", bare_settings()


class Reader:
    """Topics with their bounds."""

    def __init__(self, **bounds: list[tuple[int, int]]) -> None:
        self._bounds = {
            (name.replace("__", "."), number): Stretch(*one)
            for name, partitions in bounds.items()
            for number, one in enumerate(partitions)
        }

    def places(self, topics: Any) -> list[TopicPlace]:
        return [place for place in self._bounds if place[0] in topics]

    def ends(self, places: Any) -> dict[TopicPlace, Stretch]:
        return {place: self._bounds[place] for place in places}

    def read(self, stretches: Mapping[TopicPlace, Stretch]) -> Iterator[Entry]:
        return iter([entry(number) for number in range(5)])


def reader(**bounds: list[tuple[int, int]]) -> TopicReader:
    return cast("TopicReader", Reader(**bounds))


def place(number: int, next_: int, end: int) -> Place:
    return Place(step=0, topic=TOPIC, partition=number, first=5, end=end, next=next_, counts={"published": 1})


def test_a_mirror_begins_with_what_comes_next() -> None:
    found = starting_places(reader(live__completions=[(2, 7), (0, 0)]), SETTINGS, "live", "filter")
    assert [(one.first, one.next, one.end) for one in found] == [(7, 7, 7), (0, 0, 0)]


def test_ends_grow_and_a_new_partition_is_read_from_its_start() -> None:
    bounds = reader(live__completions=[(0, 9), (0, 3)])
    found = extended(bounds, SETTINGS, run_of(), 0, [place(0, 6, 7)])
    assert found[0] == replace(place(0, 6, 7), end=9)
    assert (found[1].partition, found[1].first, found[1].next, found[1].end) == (1, 0, 0, 3)


def test_a_later_stage_reads_what_is_in_the_mirror_s_lane() -> None:
    run = run_of(stages=("complete", "filter"))
    bounds = reader(**{"replay-r1__completions": [(0, 4)], "live__completions": [(0, 9)]})
    found = extended(bounds, SETTINGS, run, 1, [])
    assert [(one.topic, one.step, one.first, one.end) for one in found] == [("replay-r1.completions", 1, 0, 4)]


def test_what_retention_took_first_is_counted_and_the_rest_is_read() -> None:
    [found] = extended(reader(live__completions=[(8, 12)]), SETTINGS, run_of(), 0, [place(0, 6, 7)])
    assert (found.next, found.end, found.counts) == (8, 12, {"published": 1, "gone": 2})
    [whole] = extended(reader(live__completions=[(20, 20)]), SETTINGS, run_of(), 0, [found])
    assert (whole.next, whole.left, whole.counts["gone"]) == (20, 0, 14)


def test_a_topic_that_was_made_again_is_no_place_to_go_on() -> None:
    with pytest.raises(ConfigurationError, match="was made again; delete the mirror"):
        extended(reader(live__completions=[(0, 3)]), SETTINGS, run_of(), 0, [place(0, 6, 7)])


async def test_entries_come_so_many_at_a_time() -> None:
    found = [len(chunk) async for chunk in chunks(reader(), {}, 2)]
    assert found == [2, 2, 1]
