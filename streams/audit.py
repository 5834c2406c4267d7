"""Everything about one request: its events from every topic of the lane, its attempts and its final answer.

A key has one partition on each topic, and the database tells when the request was in work: only that stretch of each
partition is read, and only keys are compared until one fits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from schemas.codec import Codec
from schemas.errors import ConfigurationError, DependencyDownError
from streams import security
from streams.causes import Event, causal_order
from streams.claims import BlockingClaims
from streams.known import Known, look_up
from streams.opened import DEAD_LETTERS, Opened, Opener
from streams.reading import Place, Stretch, TopicReader, partition_for
from streams.settings import Settings
from streams.topics import KINDS, input_topics, kind_of, topic_name

# Not keyed by a request.
_OTHERS = ("documents", "control")
# Between the broker's clock and the database's, and for what was published twice.
BEFORE = timedelta(minutes=1)
AFTER = timedelta(minutes=10)
# A replay writes into a lane of its own.
REPLAYS = "replay-"

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found."""

    request_id: str
    tenants: tuple[str, ...]
    events: list[Event]
    known: Known
    # The stretch of the broker's time that was read, of costs to what was last booked; None is without a bound.
    since: datetime | None
    until: datetime | None
    # Where it ran; events of other lanes are those of replays.
    lane: str = ""

    @property
    def status(self) -> str:
        """The final status; else how far the request got: dead_lettered, in_progress or unknown."""
        if self.known.final is not None:
            return str(self.known.final["status"])
        own = [
            one for one in self.events if not self.lane or one.first.meta is None or one.first.meta.lane == self.lane
        ]
        kinds = [event.kind for event in own]
        for event in own:
            if event.kind == "answers":
                return str(getattr(event.first.record, "status", "in_progress"))
        if DEAD_LETTERS in kinds:
            return "dead_lettered"
        return "in_progress" if kinds else "unknown"


class Auditor:
    """Finds what happened to a request of a lane. Use it once; blocks on broker, registry and Postgres."""

    def __init__(
        self, settings: Settings, *, lane: str, note: Note = lambda _: None, codec: Codec | None = None
    ) -> None:
        self._settings, self._lane, self._note, self._codec = settings, lane, note, codec

    def audit(
        self, request_id: str, *, tenant: str | None = None, after: timedelta = AFTER, replays: bool = False
    ) -> Audit:
        """All about a request, to ``after`` its final answer; with ``replays``, its events in the lanes of replays too.

        What the ledger took later is read too, from the topic of costs alone.
        Raises ``ConfigurationError`` for a lane without topics, or when several tenants used the id and none was
        named; ``DependencyDownError`` when broker or registry are away. Without Postgres it reads whole partitions.
        """
        settings = self._settings
        asked = {tenant} if tenant else {*settings.tenants, "default"}
        known = self._look_up(request_id, asked)
        codec = self._codec or asyncio.run(security.codec(settings.registry))
        claims = BlockingClaims(settings, codec)
        opener = Opener(codec, prefix=settings.prefix, lane=self._lane, claims=claims)
        since = known.since - BEFORE if known.since else None
        until = known.until + after if known.until else None
        if since is None:
            hint = "" if tenant else "; --tenant is quicker for another one's"
            self._note(f"the database has no such request of {_some(asked)}: reading whole partitions{hint}")
        with TopicReader(settings) as reader:
            search = _Search(reader, opener, request_id, self._topics(reader), self._kind_of)
            found = search.between(since, until)
            if until is not None and not any(one.kind == "answers" for one in found):
                self._note("the answer came later than its row: reading on to the end")
                found, until = search.between(since, None), None
            if until is not None and known.booked is not None and known.booked > until:
                found = found + search.costs(until, known.booked + BEFORE)
            for lane in replay_lanes(reader, settings.prefix, self._lane) if replays else ():
                opener = Opener(codec, prefix=settings.prefix, lane=lane, claims=claims)
                found = found + _Search(reader, opener, request_id, self._topics(reader, lane)).copies(since)
        found = [one for one in found if tenant is None or one.meta is None or one.meta.tenant in ("", tenant)]
        tenants = {one.meta.tenant for one in found if one.meta is not None and one.meta.tenant} | {*known.tenants}
        if len(tenants) > 1:
            raise ConfigurationError(
                f"{request_id} was used by the tenants {', '.join(sorted(tenants))}; name one with --tenant"
            )
        if tenants - {*known.tenants}:
            # A tenant that the settings do not list was learned from the topics.
            known = self._look_up(request_id, tenants)
        return Audit(request_id, tuple(tenants), causal_order(found), known, since, until, self._lane)

    def _look_up(self, request_id: str, tenants: Collection[str]) -> Known:
        dsn = self._settings.postgres.dsn.get_secret_value()
        try:
            return asyncio.run(look_up(dsn, lane=self._lane, request_id=request_id, tenants=tenants))
        except DependencyDownError as error:
            self._note(f"{error}; attempts and the final row are left out")
            return Known()

    def _kind_of(self, topic: str) -> str:
        return kind_of(topic, self._settings.prefix, self._lane)

    def _topics(self, reader: TopicReader, of: str | None = None) -> dict[str, int]:
        settings, lane = self._settings, of or self._lane
        names = [topic_name(settings.prefix, lane, kind) for kind in KINDS if kind not in _OTHERS]
        # What is written to tenants' own topics besides is in the shared ones too.
        names += input_topics(settings, lane, "requests")
        there = reader.existing(names)
        if not there:
            raise ConfigurationError(f"the lane {self._lane} has no topics; name another with --lane")
        return there


def _some(tenants: Collection[str], most: int = 3) -> str:
    """A few names, and how many more there are."""
    names = sorted(tenants)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"the tenant{'s' if len(names) > 1 else ''} {', '.join(names[:most])}{more}"


def replay_lanes(reader: TopicReader, prefix: str, lane: str) -> list[str]:
    """The lanes of replays on the broker, but this one."""
    ends = tuple(f".{kind}" for kind in KINDS)
    lanes = {
        name.removeprefix(prefix).partition(".")[0]
        for name in reader.everything()
        if name.startswith(f"{prefix}{REPLAYS}") and name.endswith(ends)
    }
    return sorted(lanes - {lane})


class _Search:
    """Reads the entries of one key."""

    def __init__(
        self,
        reader: TopicReader,
        opener: Opener,
        request_id: str,
        topics: dict[str, int],
        kind_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._reader, self._opener, self._topics, self._kind_of = reader, opener, topics, kind_of
        self._key = request_id.encode()

    def between(self, since: datetime | None, until: datetime | None) -> list[Opened]:
        """The request's entries in a stretch of time."""
        places = self._places()
        found = self._read(places, since, until)
        if any(one.kind == "requests" for one in found):
            return found
        # The topics have grown since, or a producer that does not place keys as we do has put the request elsewhere.
        requests = {topic for topic in self._topics if self._kind_of(topic) == "requests"}
        moved = self._read(
            {(topic, n) for topic in requests for n in range(self._topics[topic])} - places, since, until
        )
        if found and not moved:
            # It is gone by its retention.
            return found
        earlier = {place for topic in self._topics.keys() - requests for place in self._ever(topic)} - places
        return found + moved + self._read(earlier, since, until)

    def costs(self, since: datetime, until: datetime) -> list[Opened]:
        """What it cost, as told in a stretch of time, however many partitions there were then."""
        topics = [topic for topic in self._topics if self._kind_of(topic) == "costs"]
        return self._read({place for topic in topics for place in self._ever(topic)}, since, until)

    def copies(self, since: datetime | None) -> list[Opened]:
        """The entries where our own stages put them, to the end."""
        return self._read(self._places(), since, None)

    def _ever(self, topic: str) -> set[Place]:
        """Where our own stages may have put it, however many partitions the topic had."""
        return {(topic, partition_for(self._key, was + 1)) for was in range(self._topics[topic])}

    def _places(self) -> set[Place]:
        return {(topic, partition_for(self._key, count)) for topic, count in self._topics.items()}

    def _read(self, places: Collection[Place], since: datetime | None, until: datetime | None) -> list[Opened]:
        stretches = self._reader.ends(places)
        starts = {} if since is None else self._reader.offsets_at(places, since)
        ends = {} if until is None else self._reader.offsets_at(places, until)
        bounded = {
            place: Stretch(starts.get(place, whole.start), ends.get(place, whole.end))
            for place, whole in stretches.items()
        }
        return [self._opener.open(entry) for entry in self._reader.read(bounded, wanted=self._key.__eq__)]
