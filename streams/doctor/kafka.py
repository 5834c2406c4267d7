"""What the broker holds, against the declarations."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from streams import login
from streams.doctor.checkup import ProblemError, in_thread
from streams.settings import Settings
from streams.topics import KINDS, Difference, admin_client, compare, topic_name

TIMEOUT_S = 4.0
SHOWN = 5


async def look_kafka(settings: Settings) -> str:
    """The brokers that answer."""
    metadata = await in_thread(lambda: _metadata(settings))
    brokers = ", ".join(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
    return f"{len(metadata.brokers)} broker(s): {brokers}"


async def look_topics(settings: Settings, lane: str) -> str:
    """Whether the lane's topics are as declared. Fewer partitions are told and let be: growing moves keys."""
    difference = await in_thread(lambda: compare(settings, lane))
    apply = f"headrace topics apply --lane {lane}"
    if difference.create or difference.alter:
        raise ProblemError(_described(difference), apply)
    seen = f"{len(KINDS)} topics of lane {lane} are as declared"
    if difference.grow:
        fewer = ", ".join(f"{name} has {now} of {wanted}" for name, (now, wanted) in difference.grow.items())
        seen += f"; fewer partitions than settings say: {fewer} ({apply} --grow adds them, and moves keys)"
    return seen


async def newest_append(settings: Settings, lane: str) -> datetime | None:
    """When the broker, by its own clock, last appended to a topic of the lane; None when nothing was."""
    newest = await in_thread(lambda: _newest_ms(settings, lane))
    return datetime.fromtimestamp(newest / 1000, UTC) if newest is not None else None


def _metadata(settings: Settings) -> Any:
    try:
        return admin_client(settings).list_topics(timeout=TIMEOUT_S)
    except KafkaException as error:
        raise login.down(settings.kafka, error) from None


def _described(difference: Difference) -> str:
    told = []
    if difference.create:
        more = len(difference.create) - SHOWN
        names = ", ".join(difference.create[:SHOWN])
        told.append(f"missing: {names}" + (f" and {more} more" if more > 0 else ""))
    for name, changes in difference.alter.items():
        told += [f"{name}: {key} is {now or 'unset'}, declared {wanted}" for key, (now, wanted) in changes.items()]
    return "; ".join(told)


def _newest_ms(settings: Settings, lane: str) -> int | None:
    admin = admin_client(settings)
    topics = admin.list_topics(timeout=TIMEOUT_S).topics
    names = [name for kind in KINDS if (name := topic_name(settings.prefix, lane, kind)) in topics]
    asked = {
        TopicPartition(name, partition): OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
        for name in names
        for partition in topics[name].partitions
    }
    found = admin.list_offsets(asked, request_timeout=TIMEOUT_S) if asked else {}
    times = []
    for future in found.values():
        # A partition that is just being made has no leader yet, and a broker before 3.0 does not know the question:
        # neither says anything about clocks.
        with suppress(KafkaException):
            times.append(future.result(TIMEOUT_S).timestamp)
    return max((time for time in times if time > 0), default=None)
