"""Gathers both sides: from the run's lane, and from the range of the source lane that the run replayed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from processors.bodies import PostgresBodies
from processors.claimcheck import MARK
from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import ConfigurationError, PoisonError, UnknownSchemaError
from schemas.record import Record
from schemas.records import Evaluation
from streams.claims import BlockingClaims, Claims
from streams.reading import Entry, Stretch, TopicReader
from streams.replay.changes import changes_for
from streams.replay.diff.books import booked
from streams.replay.diff.lanes import RECORDS, What
from streams.replay.diff.said import of_evaluation, scores_of
from streams.replay.diff.store import Pairs, Side
from streams.replay.events import Events
from streams.replay.run import Place, Run
from streams.replay.selection import Selection
from streams.replay.work import BATCH, batches
from streams.settings import Settings
from streams.stages import STAGES
from streams.topics import topic_name

Read = Callable[[int], None]


@dataclass(slots=True)
class Gathered:
    """What was read. ``unreadable``: records that can't be decoded, by topic."""

    read: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


class Gathering:
    """Reads both sides into a file. Blocks on the broker, and on Postgres for selections, books and large texts."""

    def __init__(
        self, settings: Settings, database: Database, codec: Codec, pairs: Pairs, *, observe: Read | None = None
    ) -> None:
        self._settings, self._database, self._codec, self._pairs = settings, database, codec, pairs
        self._claims = BlockingClaims(settings, codec)
        self._observe = observe
        self.found = Gathered()

    async def gather(self, run: Run, places: tuple[Place, ...], what: What, *, against: Run | None = None) -> Gathered:
        """Read what the run said, and what live or the run ``against`` said of the same requests.

        Raises ``DependencyDownError``, and ``ConfigurationError`` where the run's topics are gone.
        """
        await self._wanted(run, places)
        if what.kind == "books":
            await booked(self._database, self._pairs, run.source_lane if against is None else against.lane, run.lane)
            return self.found
        await asyncio.to_thread(self._read, run, places, what, against)
        return self.found

    async def _wanted(self, run: Run, places: tuple[Place, ...]) -> None:
        """Note every request that the run took, by reading its range as the run did."""
        stage = STAGES[run.stages[0]]
        selection = Selection(run.config, self._database, source_lane=run.source_lane)
        claims = Claims(PostgresBodies(self._database), self._codec, most_bytes=self._settings.bodies.max_bytes)
        changes = changes_for(stage.name, run.config.sets)
        events = Events(run, stage, changes, self._codec, claims, first=True)
        done = await asyncio.to_thread(self._left, [replace(one, next=one.first, end=one.next) for one in places])
        async for batch in batches(self._settings, done, BATCH, selection.key):
            decoded = []
            for entry in batch:
                try:
                    decoded.append((entry, await events.decode(entry)))
                except PoisonError:
                    # It has no partner on either side: the run buried it, and so did live.
                    self.found.unreadable[entry.topic] += 1
            for (_, incoming), taken in zip(decoded, await selection.takes(decoded), strict=True):
                if taken:
                    self._pairs.want(incoming.meta.tenant, incoming.meta.request_id)
            self._count(*batch)

    def _left(self, places: list[Place]) -> list[Place]:
        """The places without what retention has removed since; a topic that is gone is left out."""
        with TopicReader(self._settings) as reader:
            there = reader.existing({one.topic for one in places})
            bounds = reader.ends([(one.topic, one.partition) for one in places if one.topic in there])
        kept = []
        for one in places:
            start = bounds[one.topic, one.partition].start if one.topic in there else one.end
            if start > one.first:
                self.found.notes.append(
                    f"retention has removed a part of what was replayed from {one.topic}: of it, only requests that "
                    "the run gave outputs for are known"
                )
            if max(start, one.first) < one.end:
                kept.append(replace(one, next=max(start, one.first)))
        self.found.notes = list(dict.fromkeys(self.found.notes))
        return kept

    def _read(self, run: Run, places: tuple[Place, ...], what: What, against: Run | None) -> None:
        with TopicReader(self._settings) as reader:
            since = self._begun(reader, places)
            self._side(reader, Side.RUN, run, what, since)
            if against is not None:
                self._side(reader, Side.BASE, against, what, since)
            else:
                self._live(reader, run, what, since)

    def _begun(self, reader: TopicReader, places: tuple[Place, ...]) -> datetime | None:
        """The broker's time of the first event that was replayed: what live said of it came later."""
        there = reader.existing({one.topic for one in places})
        bounds = reader.ends([(one.topic, one.partition) for one in places if one.topic in there])
        firsts = {}
        for one in places:
            known = bounds.get((one.topic, one.partition))
            if known is None or known.start > one.first:
                # The topics of outputs may hold more than this one.
                return None
            firsts[one.topic, one.partition] = Stretch(one.first, one.first + 1)
        times = [entry.time for entry in reader.read(firsts)]
        return min(times, default=None)

    def _side(self, reader: TopicReader, side: Side, run: Run, what: What, since: datetime | None) -> None:
        """What a run said: all of its own lane, or its revisions in the source lane."""
        backfilled = run.target == "live" and what.kind == "answers"
        lane, begun = (run.source_lane, since) if backfilled else (run.lane, None)
        seen = 0
        for entry, record in self._records(reader, lane, what.topics(), begun, wanted=backfilled):
            if record.meta.run != run.run:  # type: ignore[attr-defined]
                continue
            said = what.says(record)
            if said is not None:
                seen += 1
                self._pairs.put(side, said)
                self._pairs.want(said.tenant, said.request_id)
            self._count(entry)
        if what.scored:
            for entry, record in self._records(reader, lane, ("evaluations",), begun, wanted=backfilled):
                if isinstance(record, Evaluation) and record.meta.run == run.run:
                    seen += 1
                    self._scored(side, record, what)
                self._count(entry)
        if not seen:
            raise ConfigurationError(f"the run {run.name} left nothing to compare in the lane {lane}; is it deleted?")

    def _live(self, reader: TopicReader, run: Run, what: What, since: datetime | None) -> None:
        """What live said of the requests that the run took, without what the run itself put there."""
        for entry, record in self._records(reader, run.source_lane, what.topics(), since, wanted=True):
            meta = record.meta  # type: ignore[attr-defined]
            said = (
                what.says(record) if meta.run != run.run and self._pairs.wants(meta.tenant, meta.request_id) else None
            )
            ours = self._pairs.known(Side.RUN, said.tenant, said.request_id) if said is not None else None
            # What came after a backfill is not what it replaced.
            later = ours is not None and run.target == "live" and said is not None and said.revision >= ours[0]
            if said is not None and not later:
                self._pairs.put(Side.BASE, said)
            self._count(entry)
        if what.scored:
            for entry, record in self._records(reader, run.source_lane, ("evaluations",), since, wanted=True):
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
        self, reader: TopicReader, lane: str, kinds: tuple[str, ...], since: datetime | None, *, wanted: bool
    ) -> Iterator[tuple[Entry, Record]]:
        """The events of these topics of a lane since then; ``wanted``: only of requests that are wanted."""
        for kind in kinds:
            topic = topic_name(self._settings.prefix, lane, kind)
            places = reader.places(list(reader.existing([topic])))
            stretches = reader.ends(places)
            if since is not None:
                begun = reader.offsets_at(places, since)
                stretches = {place: replace(stretch, start=begun[place]) for place, stretch in stretches.items()}
            for entry in reader.read(stretches, self._pairs.wants_key if wanted else None):
                record = self._decoded(entry, RECORDS[kind])
                if record is not None:
                    yield entry, record

    def _decoded(self, entry: Entry, record: type[Record]) -> Record | None:
        value = entry.value
        try:
            if value is None:
                return None
            try:
                found = self._codec.decode(value, record)
            except UnknownSchemaError as error:
                asyncio.run(self._codec.fetch(error.schema_id))
                found = self._codec.decode(value, record)
        except PoisonError:
            self.found.unreadable[entry.topic] += 1
            return None
        return self._claims.whole(found, value) if MARK in value else found

    def _count(self, *entries: Entry) -> None:
        self.found.read += len(entries)
        if self._observe is not None:
            self._observe(self.found.read)
