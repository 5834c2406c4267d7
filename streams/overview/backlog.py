"""What waits on the broker for each stage: how many events its groups have not committed, and since when.

The age is the one to watch: it is taken from the broker's append time of the first event that is not committed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from schemas.errors import DependencyDownError
from streams import login, security
from streams.app import group_name
from streams.reading import READER, Place
from streams.settings import Settings
from streams.stages import STAGES
from streams.topics import admin_client, input_topics, topic_name

TIMEOUT_S = 10.0
# For the append times of all first events together; what did not come by then has no age.
PEEK_S = 10.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """One input of a stage. ``done`` and ``written`` are offsets summed over partitions: their growth is a rate.

    ``oldest_at`` is None where nothing waits, or where the broker did not tell. ``state`` is the group's, by Kafka's
    name; ``dead`` where there is no such group.
    """

    stage: str
    kind: str
    group: str
    topics: tuple[str, ...]
    missing: tuple[str, ...]
    partitions: int
    events: int
    done: int
    written: int
    oldest_at: datetime | None
    members: int
    state: str


class BacklogReader:
    """Asks the broker, again and again over the same connections. Use it in a ``with`` block.

    Every method blocks on the broker, and raises ``DependencyDownError`` when it is away and ``ConfigurationError``
    when it refuses this principal.
    """

    def __init__(self, settings: Settings, lane: str) -> None:
        self._settings, self._lane = settings, lane
        self._admin = admin_client(settings)
        # A reader that fetches single events: whole batches of a long backlog would be megabytes for each look.
        self._peeker = Consumer(
            security.librdkafka(
                settings.kafka,
                {
                    **READER,
                    "log_level": 0,
                    "fetch.wait.max.ms": 20,
                    "fetch.message.max.bytes": 1,
                    "queued.min.messages": 1,
                    "queued.max.messages.kbytes": 1_024,
                },
            )
        )
        # The first event that is not committed, with its time: known until the group moves on.
        self._times: dict[tuple[Place, int], datetime] = {}

    def __enter__(self) -> BacklogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._peeker.close()

    def read(self) -> list[Backlog]:
        """Every input of every stage, in the order of the stages."""
        try:
            return self._read()
        except KafkaException as error:
            raise login.down(self._settings.kafka, error) from error

    def extent(self, kind: str) -> dict[int, tuple[int, int]]:
        """First and one past the last offset of each partition of a topic; empty where it is not there."""
        topic = topic_name(self._settings.prefix, self._lane, kind)
        try:
            places = self._places([topic])
            starts, ends = self._bounds(places)
        except KafkaException as error:
            raise login.down(self._settings.kafka, error) from error
        return {place[1]: (starts[place], ends[place]) for place in places}

    def reached(self, stage: str, kind: str) -> dict[Place, tuple[int, int]]:
        """How far a stage has committed each partition of an input, and where that ends; empty without its topics."""
        [source] = [one for one in STAGES[stage].inputs if one.kind == kind]
        group = group_name(self._settings.prefix, self._lane, STAGES[stage].group_of(source))
        try:
            places = self._places(input_topics(self._settings, self._lane, kind))
            starts, ends = self._bounds(places)
            committed = self._committed([group])[group]
        except KafkaException as error:
            raise login.down(self._settings.kafka, error) from error
        return {place: (max(starts[place], committed.get(place, 0)), ends[place]) for place in places}

    def behind(self, at: Mapping[Place, int]) -> tuple[int, datetime | None]:
        """How many events lie at these offsets and after, and when the first of them was appended, where one does."""
        try:
            starts, ends = self._bounds(at)
        except KafkaException as error:
            raise login.down(self._settings.kafka, error) from error
        left = {place: max(offset, starts[place]) for place, offset in at.items()}
        waiting = {place: offset for place, offset in left.items() if offset < ends[place]}
        times = self._first_times(waiting)
        return sum(ends[place] - offset for place, offset in waiting.items()), min(times.values(), default=None)

    def _read(self) -> list[Backlog]:
        inputs = [
            (
                stage,
                source,
                group_name(self._settings.prefix, self._lane, stage.group_of(source)),
                input_topics(self._settings, self._lane, source.kind),
            )
            for stage in STAGES.values()
            for source in stage.inputs
        ]
        places = self._places({topic for *_, topics in inputs for topic in topics})
        starts, ends = self._bounds(places)
        groups = [group for _, _, group, _ in inputs]
        committed = self._committed(groups)
        states = self._states(groups)
        rows = []
        waiting: dict[Place, int] = {}
        for stage, source, group, topics in inputs:
            own = [place for place in places if place[0] in topics]
            # A group that has committed nothing begins with the first event there is.
            at = {place: max(starts[place], committed[group].get(place, starts[place])) for place in own}
            waiting |= {place: offset for place, offset in at.items() if offset < ends[place]}
            rows.append((stage.name, source.kind, group, topics, own, at))
        times = self._first_times(waiting)
        return [
            Backlog(
                stage=stage,
                kind=kind,
                group=group,
                topics=topics,
                missing=tuple(topic for topic in topics if not any(place[0] == topic for place in own)),
                partitions=len(own),
                events=sum(max(0, ends[place] - at[place]) for place in own),
                done=sum(at.values()),
                written=sum(ends[place] for place in own),
                oldest_at=min((times[place] for place in own if place in times), default=None),
                members=states[group][1],
                state=states[group][0],
            )
            for stage, kind, group, topics, own, at in rows
        ]

    def _places(self, topics: Iterable[str]) -> list[Place]:
        found = self._admin.list_topics(timeout=TIMEOUT_S).topics
        return [(topic, number) for topic in sorted(topics) if topic in found for number in found[topic].partitions]

    def _bounds(self, places: Iterable[Place]) -> tuple[dict[Place, int], dict[Place, int]]:
        earliest, latest = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
        return self._offsets(places, earliest), self._offsets(places, latest)

    def _offsets(self, places: Iterable[Place], spec: Any) -> dict[Place, int]:
        asked = {TopicPartition(*place): spec for place in places}
        if not asked:
            return {}
        futures = self._admin.list_offsets(asked, request_timeout=TIMEOUT_S)
        return {(tp.topic, tp.partition): _result(future).offset for tp, future in futures.items()}

    def _committed(self, groups: Iterable[str]) -> dict[str, dict[Place, int]]:
        # The client takes one group a call; the calls run together.
        asked = {
            group: self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group)], request_timeout=TIMEOUT_S
            )[group]
            for group in groups
        }
        return {
            group: {
                (tp.topic, tp.partition): tp.offset for tp in _result(future).topic_partitions or () if tp.offset >= 0
            }
            for group, future in asked.items()
        }

    def _states(self, groups: list[str]) -> dict[str, tuple[str, int]]:
        """State and number of members by group; the broker knows of none that never had a member."""
        found = {}
        for group, future in self._admin.describe_consumer_groups(groups, request_timeout=TIMEOUT_S).items():
            try:
                described = _result(future)
            except KafkaException:
                found[group] = ("dead", 0)
                continue
            found[group] = (described.state.name.lower(), len(described.members))
        return found

    def _first_times(self, waiting: Mapping[Place, int]) -> dict[Place, datetime]:
        """The broker's append time of the first event at or after each offset."""
        self._times = {key: at for key, at in self._times.items() if waiting.get(key[0]) == key[1]}
        unknown = {place: offset for place, offset in waiting.items() if (place, offset) not in self._times}
        if unknown:
            self._peek(unknown)
        return {place: self._times[place, at] for place, at in waiting.items() if (place, at) in self._times}

    def _peek(self, unknown: dict[Place, int]) -> None:
        left = dict(unknown)
        self._peeker.assign([TopicPartition(*place, offset) for place, offset in left.items()])
        ends = time.monotonic() + PEEK_S
        while left and time.monotonic() < ends:
            message = self._peeker.poll(POLL_S)
            if message is None:
                continue
            place = (str(message.topic()), int(message.partition() or 0))
            if place not in left:
                continue
            if message.error() is None:
                stamp = message.timestamp()[1]
                self._times[place, left[place]] = datetime.fromtimestamp(stamp / 1000, UTC)
            del left[place]
            self._peeker.incremental_unassign([TopicPartition(*place)])
        self._peeker.unassign()


def _result(future: Future[Any]) -> Any:
    try:
        return future.result(TIMEOUT_S)
    except TimeoutError:
        raise DependencyDownError("kafka", f"no answer within {TIMEOUT_S:g} s") from None
