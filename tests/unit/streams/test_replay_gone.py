"""A replay whose sources or outputs are gone says so and goes no further."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError

from schemas.errors import ConfigurationError
from streams.reading import Place as TopicPlace
from streams.reading import Stretch, TopicReader
from streams.replay.gone import check_ends, check_outputs, check_sources
from streams.replay.run import Place, Run, RunConfig
from streams.replay.sending import BulkSender
from tests.support.settings import bare_settings

LANE, SOURCE = "replay-r1.answers", "live.completions"
RUN = Run(
    run="r1", name="r1", lane="replay-r1", source_lane="live", target="shadow", stages=("filter",), config=RunConfig(),
    code_version="1",
)  # fmt: skip


def reader(bounds: Mapping[TopicPlace, Stretch]) -> TopicReader:
    counts: dict[str, int] = {}
    for topic, _ in bounds:
        counts[topic] = counts.get(topic, 0) + 1
    return cast(
        "TopicReader",
        SimpleNamespace(
            existing=lambda topics: {topic: counts[topic] for topic in topics if topic in counts},
            ends=lambda places: {place: bounds[place] for place in places},
        ),
    )


def place(next_: int, **written: int) -> Place:
    noted = {topic.replace("_", "."): {0: end} for topic, end in written.items()}
    return Place(step=0, topic=SOURCE, partition=0, first=0, end=100, next=next_, written=noted)


@pytest.mark.parametrize("bounds", [{(LANE, 0): Stretch(0, 40)}, {}])
def test_outputs_that_are_gone_end_the_run(bounds: Mapping[TopicPlace, Stretch]) -> None:
    done = Place(step=0, topic=SOURCE, partition=0, first=0, end=100, next=50, written={LANE: {0: 50}})
    with pytest.raises(ConfigurationError, match=r"replay-r1\.answers.*50 were written.*begin again"):
        check_outputs(reader(bounds), RUN, [done])


def test_outputs_that_retention_removed_are_no_loss_and_others_topics_are_theirs() -> None:
    written = {LANE: {0: 50}, "live.answers": {0: 70}}
    done = Place(step=0, topic=SOURCE, partition=0, first=0, end=100, next=50, written=written)
    check_outputs(reader({(LANE, 0): Stretch(50, 50)}), RUN, [done])


@pytest.mark.parametrize("bounds", [Stretch(11, 100), Stretch(0, 99), Stretch(100, 100)])
def test_events_that_are_gone_before_they_were_read_end_the_run(bounds: Stretch) -> None:
    with pytest.raises(ConfigurationError, match=r"live\.completions, partition 0, has .*; 10 to 99"):
        check_sources(reader({(SOURCE, 0): bounds}), [place(10)])


def test_only_what_is_left_to_read_has_to_be_there() -> None:
    check_sources(reader({(SOURCE, 0): Stretch(10, 100)}), [place(10)])
    check_sources(reader({}), [place(100)])
    check_ends(reader({(SOURCE, 0): Stretch(100, 100)}), [place(10)])
    with pytest.raises(ConfigurationError, match="are gone"):
        check_ends(reader({(SOURCE, 0): Stretch(0, 5)}), [place(10)])


class Message:
    def __init__(self, offset: int, error: KafkaError | None = None) -> None:
        self._offset, self._error = offset, error

    def topic(self) -> str:
        return SOURCE

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def error(self) -> KafkaError | None:
        return self._error

    def key(self) -> bytes:
        return b"k"

    def value(self) -> bytes:
        return b"v"

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, 0


class Client:
    def __init__(self, *messages: Message) -> None:
        self._messages = list(messages)

    def consume(self, *_: object, **__: object) -> list[Message]:
        found, self._messages = self._messages, []
        return found

    def assign(self, _: object) -> None: ...

    def incremental_unassign(self, _: object) -> None: ...


def reading(*messages: Message) -> TopicReader:
    made: Any = TopicReader.__new__(TopicReader)
    made._consumer = Client(*messages)
    return cast("TopicReader", made)


def test_an_offset_that_is_gone_is_an_error_of_a_strict_reader() -> None:
    gone = Message(-1, KafkaError(KafkaError._AUTO_OFFSET_RESET, "fetch failed: offset out of range"))
    with pytest.raises(ConfigurationError, match="removed before they were read"):
        list(reading(gone).read({(SOURCE, 0): Stretch(5, 9)}))


def test_what_lies_before_a_stretch_is_not_handed_out() -> None:
    found = reading(*(Message(offset) for offset in (0, 1, 5, 6))).read({(SOURCE, 0): Stretch(5, 7)})
    assert [entry.offset for entry in found] == [5, 6]


async def test_a_topic_that_begins_anew_while_it_is_written_to_is_noticed() -> None:
    sender: Any = BulkSender(bare_settings())
    for offset in (7, 8):
        sender._delivered(None, Message(offset))
    assert await sender.settle() == {SOURCE: {0: 9}}
    sender._delivered(None, Message(0))
    with pytest.raises(ConfigurationError, match="was deleted"):
        await sender.settle()
