"""Reading topics by partition, offset and time on the real broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Producer

from schemas.errors import ConfigurationError, DependencyDownError
from streams.reading import STALLED_S, Stretch, TopicReader, partition_for
from streams.settings import Settings
from streams.topics import apply, compare, topic_name
from tests.support.settings import settings_for
from tests.support.stack import TestStack

KEYS = [b"a", b"r-2", "schlüssel".encode(), b"3d598ee2-1779-566f-98ef-a74b430775ef", bytes(range(256)), b"x" * 1001]


@pytest.fixture
def settings(stack: TestStack) -> Settings:
    return settings_for(stack)


@pytest.fixture
def topic(settings: Settings, lane: str) -> str:
    apply(settings, lane, compare(settings, lane, ["requests"]))
    return topic_name("", lane, "requests")


@pytest.fixture
def reader(settings: Settings) -> Iterator[TopicReader]:
    with TopicReader(settings) as opened:
        yield opened


def produce(settings: Settings, topic: str, keys: list[bytes]) -> dict[bytes, int]:
    """Where librdkafka put each key."""
    placed: dict[bytes, int] = {}
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap, "partitioner": "murmur2_random"})
    for key in keys:
        producer.produce(
            topic,
            value=key,
            key=key,
            headers=[("h", key[:4])],
            on_delivery=lambda _, message: placed.update({message.key(): message.partition()}),
        )
    assert producer.flush(20) == 0
    return placed


def whole(reader: TopicReader, topic: str) -> dict[tuple[str, int], Stretch]:
    return reader.ends(reader.places([topic]))


def test_a_key_has_the_partition_that_librdkafka_gives_it(settings: Settings, topic: str) -> None:
    placed = produce(settings, topic, KEYS + [f"key-{number}".encode() for number in range(200)])
    assert placed == {key: partition_for(key, settings.partitions) for key in placed}
    assert set(placed.values()) == set(range(settings.partitions))


def test_everything_up_to_the_ends_is_read_once_in_order(settings: Settings, topic: str, reader: TopicReader) -> None:
    keys = [f"key-{number}".encode() for number in range(5000)]
    produce(settings, topic, keys)
    stretches = whole(reader, topic)
    produce(settings, topic, [b"later"])
    entries = list(reader.read(stretches))
    assert sorted(entry.key or b"" for entry in entries) == sorted(keys)
    for place in stretches:
        offsets = [entry.offset for entry in entries if (entry.topic, entry.partition) == place]
        assert offsets == list(range(stretches[place].end))
    assert entries[0].value == entries[0].key
    assert entries[0].headers[0][0] == "h"


def test_only_wanted_keys_come(settings: Settings, topic: str, reader: TopicReader) -> None:
    produce(settings, topic, [b"a", b"b", b"a"])
    found = list(reader.read(whole(reader, topic), wanted=b"a".__eq__))
    assert [entry.key for entry in found] == [b"a", b"a"]


def test_an_empty_topic_is_read_at_once(topic: str, reader: TopicReader) -> None:
    assert list(reader.read(whole(reader, topic))) == []


def test_offsets_by_time_split_what_came_before_and_after(settings: Settings, topic: str, reader: TopicReader) -> None:
    produce(settings, topic, [b"a"])
    place = (topic, partition_for(b"a", settings.partitions))
    first = next(iter(reader.read(whole(reader, topic))))
    # The broker's clock has milliseconds: the second record must fall into a later one.
    while datetime.now(UTC) <= first.time + timedelta(milliseconds=2):
        time.sleep(0.001)
    produce(settings, topic, [b"a"])
    assert reader.offsets_at([place], first.time)[place] == 0
    assert reader.offsets_at([place], first.time + timedelta(milliseconds=1))[place] == 1
    assert reader.offsets_at([place], datetime.now(UTC) + timedelta(hours=1))[place] == 2


def test_a_partition_without_records_at_its_end_offsets_ends_too(
    settings: Settings, topic: str, reader: TopicReader
) -> None:
    """A transaction's marker takes an offset that no consumer ever gets."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap, "transactional.id": topic})
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(topic, value=b"v", key=b"a", partition=0)
    producer.commit_transaction(60)
    deadline = time.monotonic() + 60
    while (stretches := whole(reader, topic))[topic, 0] != Stretch(0, 2):
        assert time.monotonic() < deadline
    started = time.monotonic()
    assert [entry.key for entry in reader.read(stretches)] == [b"a"]
    assert time.monotonic() - started < STALLED_S


def test_following_gives_what_comes_later(settings: Settings, topic: str, reader: TopicReader) -> None:
    produce(settings, topic, [b"before"])
    reader.start({place: stretch.end for place, stretch in whole(reader, topic).items()})
    assert reader.poll(0.1) == []
    produce(settings, topic, [b"after"])
    deadline = time.monotonic() + 60
    found: list[bytes | None] = []
    while not found and time.monotonic() < deadline:
        found = [entry.key for entry in reader.poll(0.1)]
    assert found == [b"after"]


def test_a_topic_that_is_not_there_is_named(reader: TopicReader) -> None:
    with pytest.raises(ConfigurationError, match=r"nobody\.made\.this"):
        reader.places(["nobody.made.this"])


def test_a_broker_that_is_away_is_said_to_be(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.reading.TIMEOUT_S", 0.3)
    away = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"bootstrap": "127.0.0.1:9"})})
    with TopicReader(away) as reader, pytest.raises(DependencyDownError, match="kafka"):
        reader.places(["any"])
