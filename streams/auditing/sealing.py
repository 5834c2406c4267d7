"""Seals a lane: reads each partition in order, and puts a Merkle root over every stretch into the table of seals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from confluent_kafka import KafkaException, TopicCollection

from schemas.errors import ConfigurationError, DependencyDownError
from streams import login
from streams.auditing.seals import Seal, Seals, leaf_of, sealed
from streams.auditing.seals_pg import PostgresSeals
from streams.reading import Entry, Place, Stretch, TopicReader
from streams.retention import DAY_S, FOREVER
from streams.settings import Settings
from streams.topics import TIMEOUT_S, admin_client, all_topics, kind_of, topic_name

# Written in great numbers, kept for a day, and repeated in the answer.
STREAMED = ("deltas", "chunks")
# New topics and partitions are looked for, and leaves that are of no more use dropped, once in this time.
REFRESH_S = 60.0
RETRY_S = 5.0
# After the records' own retention, because a broker removes whole segments.
LEAVES_LONGER = timedelta(days=2)

Note = Callable[[str], None]
Advance = Callable[[int], None]


class Clocked(Seals, Protocol):
    """Seals with the time at which they are made."""

    def now(self) -> datetime:
        """The database's time."""
        ...


@dataclass(slots=True)
class Open:
    """What was read of a partition and is not sealed yet."""

    before: Seal | None
    topic_id: str
    from_offset: int
    offsets: list[int] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    first_at: datetime | None = None
    last_at: datetime | None = None
    # By this process's own clock.
    since: float = 0.0

    def take(self, entry: Entry) -> None:
        """Add the next record."""
        if not self.offsets:
            self.first_at, self.since = entry.time, time.monotonic()
        self.offsets.append(entry.offset)
        self.leaves.append(leaf_of(entry))
        self.last_at = entry.time

    def waits(self, before: Seal | None, topic_id: str, start: int) -> bool:
        """Whether what was read still waits for its seal, behind the last seal that is stored."""
        # A seal that was just made has its leaves, and a stored one is read without them.
        chained = (self.before and self.before.seal) == (before and before.seal)
        return chained and self.topic_id == topic_id and bool(self.offsets) and self.offsets[-1] >= start

    def close(self, place: Place, now: datetime) -> Seal:
        """The seal over what was read; what follows begins behind it."""
        assert self.first_at is not None and self.last_at is not None
        seal = sealed(
            self.before,
            place=place,
            topic_id=self.topic_id,
            from_offset=self.from_offset,
            offsets=self.offsets,
            leaves=self.leaves,
            first_at=self.first_at,
            last_at=self.last_at,
            sealed_at=now,
        )
        self.before, self.from_offset = seal, seal.to_offset + 1
        self.offsets, self.leaves = [], []
        return seal


@dataclass(frozen=True, slots=True)
class Interval:
    """When a stretch is sealed: when it has so many records, or its first one was read so long ago."""

    records: int = 1_000
    seconds: float = 60.0


class Sealer:
    """Seals the topics of a lane. One at a time: whoever runs it holds the lane's lock."""

    def __init__(
        self, settings: Settings, seals: Clocked, *, lane: str, interval: Interval, streams: bool, note: Note
    ) -> None:
        self._settings, self._seals, self._lane = settings, seals, lane
        self._interval, self._streams, self._note = interval, streams, note
        self._open: dict[Place, Open] = {}
        self._told: set[Place] = set()

    def once(self, advance: Advance = lambda _count: None, plan: Advance = lambda _total: None) -> tuple[int, int]:
        """Seal everything up to the present ends. Returns records and seals. Blocks on the broker and Postgres."""
        records = seals = 0
        with TopicReader(self._settings) as reader:
            stretches = self._begin(reader)
            plan(sum(one.end - one.start for one in stretches.values()))
            for entry in reader.read(stretches):
                seals += self._take(entry)
                records += 1
                advance(1)
            seals += self._close([place for place, one in self._open.items() if one.offsets])
            self._forget(reader)
        return records, seals

    def follow(self, stop: threading.Event, advance: Advance = lambda _count: None) -> None:
        """Seal for as long as wanted. What was read and not sealed is read again by the next one.

        Raises ``DependencyDownError``: begin anew then, with another connection.
        """
        while not stop.is_set():
            self._follow(stop, advance)

    def _follow(self, stop: threading.Event, advance: Advance) -> None:
        with TopicReader(self._settings) as reader:
            stretches = self._begin(reader)
            reader.start({place: one.start for place, one in stretches.items()})
            self._forget(reader)
            refresh = time.monotonic() + REFRESH_S
            while not stop.is_set() and time.monotonic() < refresh:
                for entry in reader.poll():
                    self._take(entry)
                    advance(1)
                old = time.monotonic() - self._interval.seconds
                self._close([place for place, one in self._open.items() if one.offsets and one.since <= old])

    def _begin(self, reader: TopicReader) -> dict[Place, Stretch]:
        """Where to go on with each partition, behind its last seal and what was read before."""
        ids = topic_ids(self._settings, reader.existing(self._topics()))
        if not ids:
            raise ConfigurationError(f"the lane {self._lane} has no topics; name another with --lane")
        places = reader.places(list(ids))
        last, ends = self._seals.last(list(ids)), reader.ends(places)
        stretches = {}
        for place, whole in ends.items():
            before, topic_id = last.get(place), ids[place[0]]
            start = whole.start
            if before is not None and before.topic_id == topic_id:
                start = max(whole.start, before.to_offset + 1)
            elif before is not None and place not in self._told:
                self._told.add(place)
                self._note(f"{place[0]}-{place[1]} was made again; its new records are sealed behind the old ones")
            known = self._open.get(place)
            if known is not None and known.waits(before, topic_id, start):
                start = known.offsets[-1] + 1
            else:
                self._open[place] = Open(before, topic_id, start)
            stretches[place] = Stretch(start, max(start, whole.end))
        self._open = {place: one for place, one in self._open.items() if place in stretches}
        return stretches

    def _topics(self) -> list[str]:
        settings = self._settings
        return [
            topic_name(settings.prefix, self._lane, topic.name)
            for topic in all_topics(settings)
            if self._streams or topic.kind not in STREAMED
        ]

    def _take(self, entry: Entry) -> int:
        place = (entry.topic, entry.partition)
        held = self._open[place]
        held.take(entry)
        return self._close([place]) if len(held.offsets) >= self._interval.records else 0

    def _close(self, places: Sequence[Place]) -> int:
        """Seal what was read of these partitions; how many seals."""
        if not places:
            return 0
        now = self._seals.now()
        self._seals.add([self._open[place].close(place, now) for place in places])
        return len(places)

    def _forget(self, reader: TopicReader) -> None:
        """Drop the leaves of records that have gone by retention: root and chain stay."""
        retention, now = self._settings.retention.resolved(), self._seals.now()
        for place, whole in reader.ends(self._open).items():
            days = retention.topics[kind_of(place[0], self._settings.prefix, self._lane)]
            if days != FOREVER:
                before = now - timedelta(seconds=days * DAY_S) - LEAVES_LONGER
                self._seals.forget_leaves(place, below=whole.start, before=before)


def keep_sealing(
    connect: Callable[[], PostgresSeals],
    make: Callable[[PostgresSeals], Sealer],
    *,
    lane: str,
    stop: threading.Event,
    note: Note,
    advance: Advance = lambda _count: None,
) -> None:
    """Seal a lane until ``stop``, through whatever is away for a while, and behind another sealer until it ends."""
    told = False
    while not stop.is_set():
        try:
            with connect() as seals:
                if seals.hold(lane):
                    told = False
                    make(seals).follow(stop, advance)
                elif not told:
                    told = True
                    note(f"another sealer has the lane {lane}; waiting for it to end")
        except DependencyDownError as error:
            note(f"{error}; trying again in {RETRY_S:g} s")
        stop.wait(RETRY_S)


def topic_ids(settings: Settings, topics: Collection[str]) -> dict[str, str]:
    """The broker's own id of each topic: one that is made again under its name gets another. Blocks on the broker."""
    if not topics:
        return {}
    # The answers come only while the client lives.
    admin = admin_client(settings)
    try:
        found = admin.describe_topics(TopicCollection(list(topics)), request_timeout=TIMEOUT_S)
        return {name: str(future.result(TIMEOUT_S).topic_id) for name, future in found.items()}
    except KafkaException as error:
        raise login.down(settings.kafka, error) from None
