"""Gathers both sides: from the run's lane, and from the range of the source lane that the run replayed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from processors.bodies import PostgresBodies
from processors.claimcheck import MARK
from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import ConfigurationError, PoisonError
from schemas.record import Record
from streams.claims import BlockingClaims, Claims
from streams.reading import Entry, TopicReader
from streams.replay.changes import changes_for
from streams.replay.diff.books import booked
from streams.replay.diff.lanes import What
from streams.replay.diff.sides import Sides, in_time
from streams.replay.diff.store import Pairs, Side
from streams.replay.events import Events
from streams.replay.run import GONE, OVER_BUDGET, Place, Run
from streams.replay.selection import Selection
from streams.replay.work import BATCH, batches
from streams.settings import Settings
from streams.stages import STAGES

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
        self._observe = observe
        self.found = Gathered()

    async def gather(
        self,
        run: Run,
        places: tuple[Place, ...],
        what: What,
        *,
        against: Run | None = None,
        since: datetime | None = None,
    ) -> Gathered:
        """Read what the run said, and what live or the run ``against`` said of the same requests.

        ``since``: only of requests that were accepted since then. Raises ``DependencyDownError``, and
        ``ConfigurationError`` where the run's topics are gone.
        """
        if what.kind == "books" and since is not None:
            raise ConfigurationError("--since: the books of a run are compared as a whole")
        passed = sum(place.counts.get(name, 0) for place in places for name in (OVER_BUDGET, GONE))
        if passed:
            self.found.notes.append(f"{passed} events were passed over by the mirror, and are not compared")
        # A mirror is compared by what it made: what it passed over, and has not read yet, it says nothing about.
        if not run.config.mirror:
            await self._wanted(run, places, since)
        if what.kind == "books":
            await booked(self._database, self._pairs, run.source_lane if against is None else against.lane, run.lane)
            return self.found
        await asyncio.to_thread(self._read, run, places, what, against, since)
        return self.found

    async def _wanted(self, run: Run, places: tuple[Place, ...], since: datetime | None) -> None:
        """Note every request that the run took, by reading its range as the run did."""
        stage = STAGES[run.stages[0]]
        selection = Selection(run.config, self._database, source_lane=run.source_lane, run=run.run)
        claims = Claims(PostgresBodies(self._database), self._codec, most_bytes=self._settings.bodies.max_bytes)
        changes = changes_for(stage.name, run.config.sets, fills=run.config.fills)
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
                if taken and in_time(incoming.meta, since):
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

    def _read(
        self, run: Run, places: tuple[Place, ...], what: What, against: Run | None, asked_since: datetime | None
    ) -> None:
        claims = BlockingClaims(self._settings, self._codec)

        def whole(record: Record, value: bytes) -> Record:
            return claims.whole(record, value) if MARK in value else record

        with TopicReader(self._settings) as reader:
            sides = Sides(
                reader,
                self._codec,
                self._pairs,
                prefix=self._settings.prefix,
                whole=whole,
                unreadable=self.found.unreadable,
                count=self._count,
                since=asked_since,
            )
            since = sides.begun(places)
            sides.run(Side.RUN, run, what, since)
            if against is not None:
                # It may have begun elsewhere.
                sides.run(Side.BASE, against, what, None)
            else:
                sides.live(run, what, since)

    def _count(self, *entries: Entry) -> None:
        self.found.read += len(entries)
        if self._observe is not None:
            self._observe(self.found.read)
