"""Reading topics without a consumer group: by partition, offset and time, up to an end or for as long as wanted."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from aiokafka.partitioner import murmur2
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, TopicPartition

from schemas.errors import ConfigurationError, DependencyDownError
from streams import login, security
from streams.settings import Settings

T = TypeVar("T")
# A topic and one of its partitions.
Place = tuple[str, int]
Check = Callable[[bytes | None], bool]

# Required by the client; a group of this name is never joined.
READER_GROUP = "headrace-reader"
# The client's options of whoever reads without being a member of a group.
READER: dict[str, str | bool | int] = {
    "group.id": READER_GROUP,
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    # By default the client stands still for a second whenever its queue is full.
    "fetch.queue.backoff.ms": 5,
}
TIMEOUT_S = 10.0
# A read up to a known end that gets nothing for this long gives up: the broker is away.
STALLED_S = 30.0
# A topic that was just created, or whose broker went, has its leaders a moment later; asked again after the pause.
LEADERS_S, LEADERS_PAUSE_S = 30.0, 0.1
POLL_S = 0.1
# A batch is handed out when it is full or this is over, so it is also what the end of a read waits for.
READ_POLL_S = 0.03
BATCH = 2_000
# librdkafka's error for a topic or partition that is not there.
_MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_LEADERLESS = (KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION)
_FORBIDDEN = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as it lies in a topic."""

    topic: str
    partition: int
    offset: int
    # The broker's append time.
    time: datetime
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return len(self.value or b"")


@dataclass(frozen=True, slots=True)
class Stretch:
    """The offsets ``start`` to ``end - 1`` of a partition."""

    start: int
    end: int


def partition_for(key: bytes, partitions: int) -> int:
    """The partition of a key, as Java's client, aiokafka and librdkafka's ``murmur2_random`` have it."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


class TopicReader:
    """A consumer that is assigned by hand: no group, nothing committed. Use it in a ``with`` block.

    Every method blocks on the broker. Raises ``DependencyDownError`` when it is away and ``ConfigurationError`` for a
    topic that is not there or a login that is refused.
    """

    def __init__(self, settings: Settings, *, strict: bool = False) -> None:
        """``strict``: an offset that is gone raises ``ConfigurationError``, and is not passed over."""
        self._kafka = settings.kafka
        login.check_login(settings.kafka)
        self._consumer = Consumer(
            security.librdkafka(
                settings.kafka,
                {
                    **READER,
                    "auto.offset.reset": "error" if strict else READER["auto.offset.reset"],
                    # What goes wrong is raised; the client's own lines would come many times a second.
                    "log_level": 2,
                    "fetch.wait.max.ms": 50,
                    "queued.max.messages.kbytes": 65_536,
                    "fetch.message.max.bytes": 2_097_152,
                },
            )
        )

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def places(self, topics: Collection[str]) -> list[Place]:
        """Every partition of the topics."""
        return [(topic, partition) for topic, count in self.counts(topics).items() for partition in range(count)]

    def counts(self, topics: Collection[str]) -> dict[str, int]:
        """How many partitions each topic has."""
        found = self.existing(topics)
        missing = [topic for topic in topics if topic not in found]
        if missing:
            raise ConfigurationError(
                f"not on the broker, or hidden from this principal: {', '.join(missing)}; run `headrace topics apply`"
            )
        return found

    def existing(self, topics: Collection[str]) -> dict[str, int]:
        """As ``counts``, without the topics that are not there."""
        found = self.everything()
        return {topic: found[topic] for topic in topics if topic in found}

    def everything(self) -> dict[str, int]:
        """How many partitions each topic has that this principal may see."""
        found = self._asked(lambda: self._consumer.list_topics(timeout=TIMEOUT_S)).topics
        return {name: len(topic.partitions) for name, topic in found.items()}

    def ends(self, places: Collection[Place]) -> dict[Place, Stretch]:
        """The first and one past the last offset of each partition now."""
        return {place: Stretch(*self._watermarks(place)) for place in places}

    def offsets_at(self, places: Collection[Place], moment: datetime) -> dict[Place, int]:
        """The first offset at or after ``moment`` by the broker's time; the end where there is none."""
        stamp = max(0, int(moment.timestamp() * 1000))
        wanted = [TopicPartition(topic, partition, stamp) for topic, partition in places]
        found = self._asked(lambda: self._consumer.offsets_for_times(wanted, timeout=TIMEOUT_S)) if wanted else []
        offsets = {}
        for one in found:
            if one.error is not None:
                _raise(one.error)
            place = (one.topic, one.partition)
            offsets[place] = one.offset if one.offset >= 0 else self._watermarks(place)[1]
        return offsets

    def read(self, stretches: Mapping[Place, Stretch], wanted: Check | None = None) -> Iterator[Entry]:
        """The entries of these stretches whose key passes ``wanted``, partition by partition in order of offset.

        Ends at each stretch's end. Raises ``DependencyDownError`` when the broker gives nothing for 30 s.
        """
        left = {place: stretch for place, stretch in stretches.items() if stretch.start < stretch.end}
        self.start({place: stretch.start for place, stretch in left.items()})
        heard = time.monotonic()
        while left:
            batch: list[Any] = self._consumer.consume(BATCH, timeout=READ_POLL_S)
            if batch:
                heard = time.monotonic()
            elif time.monotonic() - heard > STALLED_S:
                raise DependencyDownError("kafka", f"no record came for {STALLED_S:g} s")
            for message in batch:
                place = (message.topic(), message.partition())
                stretch = left.get(place)
                if stretch is None:
                    continue
                if message.error() is not None:
                    # Offsets may have gaps: the end of a partition is also where the broker says so.
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        self._done(place, left)
                    elif not message.error().retriable():
                        _raise(message.error())
                    continue
                offset = message.offset()
                if stretch.start <= offset < stretch.end and (wanted is None or wanted(message.key())):
                    yield _entry(message)
                if offset >= stretch.end - 1:
                    self._done(place, left)
            if batch:
                # Whoever reads may have taken its time over them.
                heard = time.monotonic()

    def start(self, offsets: Mapping[Place, int]) -> None:
        """Read on from these offsets, and from no other partition."""
        self._consumer.assign([TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()])

    def poll(self, timeout_s: float = POLL_S, wanted: Check | None = None) -> list[Entry]:
        """What has come since, at most a batch of it; none when nothing came in time or the broker is away."""
        entries = []
        # A batch waits until it is full or the time is over, so the first record is waited for alone.
        first = self._consumer.poll(timeout_s)
        for message in [first, *self._consumer.consume(BATCH, timeout=0)] if first is not None else ():
            error = message.error()
            if error is not None:
                if error.code() in (*_MISSING, *_FORBIDDEN) or error.fatal():
                    _raise(error)
                continue
            if wanted is None or wanted(message.key()):
                entries.append(_entry(message))
        return entries

    def _done(self, place: Place, left: dict[Place, Stretch]) -> None:
        del left[place]
        self._consumer.incremental_unassign([TopicPartition(*place)])

    def _asked(self, question: Callable[[], T]) -> T:
        until = time.monotonic() + LEADERS_S
        while True:
            try:
                return question()
            except KafkaException as error:
                code = error.args[0].code()
                if code in _LEADERLESS and time.monotonic() < until:
                    time.sleep(LEADERS_PAUSE_S)
                    continue
                if code in (*_MISSING, *_FORBIDDEN):
                    _raise(error.args[0])
                raise login.down(self._kafka, error) from None

    def _watermarks(self, place: Place) -> tuple[int, int]:
        found = self._asked(lambda: self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=TIMEOUT_S))
        if found is None:
            raise DependencyDownError("kafka", f"no offsets of {place[0]} came in {TIMEOUT_S:g} s")
        return int(found[0]), int(found[1])


def _entry(message: Any) -> Entry:
    kind, stamp = message.timestamp()
    return Entry(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        time=datetime.fromtimestamp(0 if kind == TIMESTAMP_NOT_AVAILABLE else stamp / 1000, UTC),
        key=message.key(),
        value=message.value(),
        headers=tuple(message.headers() or ()),
    )


def _raise(error: KafkaError) -> NoReturn:
    if error.code() in _FORBIDDEN:
        raise ConfigurationError(
            f"the broker does not let this principal do it ({error.str()}); see headrace topics acls"
        )
    if error.code() in _MISSING:
        raise ConfigurationError(f"a topic is missing ({error.str()}); run `headrace topics apply`")
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise ConfigurationError(f"events were removed before they were read ({error.str()})")
    raise DependencyDownError("kafka", error.str())
