"""Reads what a run and its counterpart said off their topics; what belongs to the compared requests is kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from schemas.codec import Codec
from schemas.errors import ConfigurationError, PoisonError, UnknownSchemaError
from schemas.record import Record
from schemas.records import Evaluation, Meta
from streams.reading import Check, Entry, Stretch
from streams.reading import Place as TopicPlace
from streams.replay.diff.lanes import RECORDS, What
from streams.replay.diff.said import of_evaluation, scores_of
from streams.replay.diff.store import Pairs, Side
from streams.replay.run import Place, Run
from streams.topics import topic_name


class Topics(Protocol):
    """Topics without a consumer group, as ``TopicReader`` has them. Blocks on the broker."""

    def existing(self, topics: Collection[str]) -> dict[str, int]:
        """How many partitions each topic has that is there."""
        ...

    def places(self, topics: Collection[str]) -> list[TopicPlace]:
        """Every partition of the topics."""
        ...

    def ends(self, places: Collection[TopicPlace]) -> dict[TopicPlace, Stretch]:
        """The first and one past the last offset of each partition now."""
        ...

    def offsets_at(self, places: Collection[TopicPlace], moment: datetime) -> dict[TopicPlace, int]:
        """The first offset at or after a moment."""
        ...

    def read(self, stretches: Mapping[TopicPlace, Stretch], wanted: Check | None = None) -> Iterator[Entry]:
        """The entries of these stretches whose key is wanted."""
        ...


class FakeTopics:
    """Topics of one partition each, in memory."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        self.entries: dict[str, list[Entry]] = {}
        for entry in entries:
            self.entries.setdefault(entry.topic, []).append(entry)

    def existing(self, topics: Collection[str]) -> dict[str, int]:
        return {topic: 1 for topic in topics if topic in self.entries}

    def places(self, topics: Collection[str]) -> list[TopicPlace]:
        return [(topic, 0) for topic in topics]

    def ends(self, places: Collection[TopicPlace]) -> dict[TopicPlace, Stretch]:
        found = {place: self.entries[place[0]] for place in places}
        return {place: Stretch(entries[0].offset, entries[-1].offset + 1) for place, entries in found.items()}

    def offsets_at(self, places: Collection[TopicPlace], moment: datetime) -> dict[TopicPlace, int]:
        ends = self.ends(places)
        return {
            place: next((one.offset for one in self.entries[place[0]] if one.time >= moment), ends[place].end)
            for place in places
        }

    def read(self, stretches: Mapping[TopicPlace, Stretch], wanted: Check | None = None) -> Iterator[Entry]:
        for (topic, _), stretch in stretches.items():
            for entry in self.entries[topic]:
                if stretch.start <= entry.offset < stretch.end and (wanted is None or wanted(entry.key)):
                    yield entry


def in_time(meta: Meta, since: datetime | None) -> bool:
    """Whether the request of an event was accepted since then; all are where nothing was said."""
    return since is None or meta.accepted_at is None or meta.accepted_at >= since


class Sides:
    """Puts both sides into the file. ``whole`` fetches texts that are too large for a topic; ``unreadable`` counts
    records that can't be decoded, by topic; ``count`` is told each record; ``since``: of requests accepted since then.
    """

    def __init__(
        self,
        reader: Topics,
        codec: Codec,
        pairs: Pairs,
        *,
        prefix: str,
        whole: Callable[[Record, bytes], Record],
        unreadable: Counter[str],
        count: Callable[[Entry], None],
        since: datetime | None = None,
    ) -> None:
        self._since = since
        self._reader, self._codec, self._pairs, self._prefix = reader, codec, pairs, prefix
        self._whole, self._unreadable, self._count = whole, unreadable, count
        # Schema ids that the registry denied: it is not asked for every record again.
        self._denied: set[int] = set()

    def begun(self, places: tuple[Place, ...]) -> datetime | None:
        """The broker's time of the first event that was replayed: what live said of it came later."""
        there = self._reader.existing({one.topic for one in places})
        bounds = self._reader.ends([(one.topic, one.partition) for one in places if one.topic in there])
        firsts = {}
        for one in places:
            known = bounds.get((one.topic, one.partition))
            if known is None or known.start > one.first:
                # The topics of outputs may hold more than this one.
                return None
            firsts[one.topic, one.partition] = Stretch(one.first, one.first + 1)
        times = [entry.time for entry in self._reader.read(firsts)]
        return min(times, default=None)

    def run(self, side: Side, run: Run, what: What, since: datetime | None) -> None:
        """What a run said: all of its own lane, or its revisions in the source lane."""
        backfilled = run.target == "live" and what.kind == "answers"
        lane, begun = (run.source_lane, since) if backfilled else (run.lane, None)
        seen = 0
        for entry, record in self._records(lane, what.topics(), begun, wanted=False):
            if record.meta.run != run.run:  # type: ignore[attr-defined]
                continue
            said = what.says(record)
            if said is not None:
                seen += 1
                self._pairs.put(side, said)
                self._pairs.want(said.tenant, said.request_id)
            self._count(entry)
        if what.scored:
            for entry, record in self._records(lane, ("evaluations",), begun, wanted=False):
                if isinstance(record, Evaluation) and record.meta.run == run.run:
                    seen += 1
                    self._scored(side, record, what)
                self._count(entry)
        if not seen:
            raise ConfigurationError(f"the run {run.name} left nothing to compare in the lane {lane}; is it deleted?")

    def live(self, run: Run, what: What, since: datetime | None) -> None:
        """What live said of the requests that the run took, without what the run itself put there."""
        for entry, record in self._records(run.source_lane, what.topics(), since, wanted=True):
            meta = record.meta  # type: ignore[attr-defined]
            said = (
                what.says(record) if meta.run != run.run and self._pairs.wants(meta.tenant, meta.request_id) else None
            )
            ours = self._pairs.known(Side.RUN, said.tenant, said.request_id) if said is not None else None
            # What came after a backfill is not what it replaced. Where finals were purged both are revision 0.
            later = ours is not None and run.target == "live" and said is not None and said.revision > ours[0]
            if said is not None and not later:
                self._pairs.put(Side.BASE, said)
            self._count(entry)
        if what.scored:
            for entry, record in self._records(run.source_lane, ("evaluations",), since, wanted=True):
                meta = record.meta  # type: ignore[attr-defined]
                if (
                    isinstance(record, Evaluation)
                    and meta.run != run.run
                    and self._pairs.wants(meta.tenant, meta.request_id)
                ):
                    self._scored(Side.BASE, record, what)
                self._count(entry)

    def _scored(self, side: Side, record: Evaluation, what: What) -> None:
        """Keep an evaluation of the very answer that is compared. What users said is about the answer that they saw."""
        if record.feedback_event_id is not None:
            return
        meta = record.meta
        if what.kind == "evaluations":
            self._pairs.put(side, of_evaluation(record))
            self._pairs.want(meta.tenant, meta.request_id)
        else:
            known = self._pairs.known(side, meta.tenant, meta.request_id)
            if known is None or known[1] != record.answer_event_id:
                return
        self._pairs.put_scores(side, meta.tenant, meta.request_id, scores_of(record), revision=record.revision)

    def _records(
        self, lane: str, kinds: tuple[str, ...], since: datetime | None, *, wanted: bool
    ) -> Iterator[tuple[Entry, Record]]:
        """The events of these topics of a lane since then; ``wanted``: only of requests that are wanted."""
        for kind in kinds:
            topic = topic_name(self._prefix, lane, kind)
            places = self._reader.places(list(self._reader.existing([topic])))
            stretches = self._reader.ends(places)
            # What became of a request is said after it was accepted.
            after = max((one for one in (since, self._since) if one is not None), default=None)
            if after is not None:
                begun = self._reader.offsets_at(places, after)
                stretches = {place: replace(stretch, start=begun[place]) for place, stretch in stretches.items()}
            for entry in self._reader.read(stretches, self._pairs.wants_key if wanted else None):
                record = self._decoded(entry, RECORDS[kind])
                if record is not None and in_time(record.meta, self._since):  # type: ignore[attr-defined]
                    yield entry, record

    def _decoded(self, entry: Entry, record: type[Record]) -> Record | None:
        value = entry.value
        try:
            if value is None:
                return None
            try:
                found = self._codec.decode(value, record)
            except UnknownSchemaError as error:
                if error.schema_id in self._denied:
                    raise
                self._denied.add(error.schema_id)
                asyncio.run(self._codec.fetch(error.schema_id))
                self._denied.discard(error.schema_id)
                found = self._codec.decode(value, record)
        except PoisonError:
            self._unreadable[entry.topic] += 1
            return None
        return self._whole(found, value)
