"""Topics on the real broker: the difference is told first, and nothing is deleted or grown unasked."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]

from streams.offsets import broker_offsets_days, offsets_warning
from streams.settings import Settings
from streams.topics import TOPICS, admin_client, apply, compare, topic_name
from tests.support.polling import eventually
from tests.support.settings import settings_for
from tests.support.stack import TestStack


@pytest.fixture
def settings(stack: TestStack) -> Settings:
    return settings_for(stack, partitions=2)


def partitions(settings: Settings, topic: str) -> int:
    return len(admin_client(settings).list_topics(timeout=60).topics[topic].partitions)


def test_every_declared_topic_is_created_once(settings: Settings, lane: str) -> None:
    difference = compare(settings, lane)
    assert set(difference.create) == {topic_name("", lane, topic.kind) for topic in TOPICS}
    apply(settings, lane, difference)
    eventually(lambda: not compare(settings, lane), "no difference to be left")
    assert partitions(settings, f"{lane}.requests") == 2
    assert partitions(settings, f"{lane}.control") == 1


def test_a_setting_that_differs_is_told_and_set_back(settings: Settings, lane: str) -> None:
    apply(settings, lane, compare(settings, lane, ["answers"]))
    topic = f"{lane}.answers"
    entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = admin_client(settings)
    admin.incremental_alter_configs([resource])[resource].result(20)
    # The controller answers before the broker shows the change.
    eventually(lambda: bool(compare(settings, lane, ["answers"]).alter), "the change to show")
    difference = compare(settings, lane, ["answers"])
    now, wanted = difference.alter[topic]["retention.ms"]
    assert now == "1000" and int(wanted) > 1000
    apply(settings, lane, difference)
    eventually(lambda: not compare(settings, lane, ["answers"]), "the setting to be as declared")


def test_partitions_grow_only_when_asked(settings: Settings, lane: str, stack: TestStack) -> None:
    apply(settings, lane, compare(settings, lane, ["requests"]))
    larger = settings_for(stack, partitions=3)
    eventually(lambda: bool(compare(larger, lane, ["requests"]).grow), "the topic to show")
    difference = compare(larger, lane, ["requests"])
    assert difference.grow == {f"{lane}.requests": (2, 3)}
    apply(larger, lane, difference)
    assert partitions(larger, f"{lane}.requests") == 2
    apply(larger, lane, difference, grow=True)
    eventually(lambda: partitions(larger, f"{lane}.requests") == 3, "the third partition to show")


def test_retention_in_the_settings_is_what_the_broker_gets(settings: Settings, lane: str, stack: TestStack) -> None:
    apply(settings, lane, compare(settings, lane, ["answers"]))
    shorter = settings_for(stack, partitions=2, retention={"topics": {"answers": 2}})
    eventually(lambda: bool(compare(shorter, lane, ["answers"]).alter), "the difference to show")
    difference = compare(shorter, lane, ["answers"])
    assert difference.alter[f"{lane}.answers"] == {"retention.ms": (str(30 * 86_400_000), str(2 * 86_400_000))}
    apply(shorter, lane, difference)
    eventually(lambda: not compare(shorter, lane, ["answers"]), "the topic to be as set")


def test_a_broker_that_keeps_offsets_for_longer_than_the_settings_say_is_told_of(
    settings: Settings, stack: TestStack
) -> None:
    days = broker_offsets_days(settings)
    assert days is not None and days > 0
    believed = settings_for(stack, retention={"offsets_days": days / 2})
    assert f"the broker keeps offsets for {days:g} days" in (offsets_warning(days, believed) or "")
    assert offsets_warning(days, settings_for(stack, retention={"offsets_days": days})) is None
    assert offsets_warning(None, believed) is None
