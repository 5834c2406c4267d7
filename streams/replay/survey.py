"""A dry run: how many events a run would take, without anything begun or spent."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from processors.bodies import PostgresBodies
from processors.clock import Clock, DatabaseClock
from processors.event import Incoming
from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import PoisonError
from streams.claims import Claims
from streams.reading import TopicReader
from streams.replay.backfill import prospects
from streams.replay.calls import Prepared, calls_of
from streams.replay.changes import changes_for
from streams.replay.embeddings import NOTHING, Embedded, bounds_of
from streams.replay.events import Events
from streams.replay.foresight import PASSAGE_BYTES, Foreseen, Foresight, Waiting
from streams.replay.paid import asks_later
from streams.replay.past_index import PastIndex, past_index
from streams.replay.ports import replay_settings
from streams.replay.remembered import Remembered
from streams.replay.run import Place, Run
from streams.replay.selection import Selection
from streams.replay.work import BATCH, batches
from streams.settings import Settings
from streams.stages import STAGES, Effect

NO_MODEL, OTHERWISE = "the settings have no such route or model", "for other reasons"
# So many are told apart.
REASONS = 100


@dataclass(slots=True)
class Surveyed:
    """What a run would do. ``calls`` are those to be made, by model; ``answers`` what becomes of the source lane's.

    Amounts in US dollars: what they cost with one attempt each that generates as many tokens as it may, and the most
    that they can cost with every attempt of their routes. Where a stage before them makes their prompts, the first is
    by the enrichments that are recorded, and the second by the most that the settings let be retrieved; of
    ``not_recorded`` requests nothing is recorded, and both are for the longest prompt. ``embeddings`` are by stage.
    ``index``: of requests that another index than today's is chosen for, what is searched. ``refusals`` say why of the
    ``refused``.
    """

    read: int = 0
    taken: int = 0
    unreadable: int = 0
    tenants: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    likely_usd: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    most_usd: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    reused: int = 0
    refused: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    not_recorded: int = 0
    index: Counter[str] = field(default_factory=Counter)
    embeddings: dict[str, Embedded] = field(default_factory=dict)

    def embed(self, stage: str, more: Embedded) -> None:
        """Count what a stage has embedded."""
        self.embeddings[stage] = self.embeddings.get(stage, NOTHING) + more

    def call(self, known: Prepared, *, most: Decimal) -> None:
        """Count a call, which costs at most so much."""
        if known.error is not None or not known.model:
            self.refused += 1
            reason = NO_MODEL if known.error is None else str(known.error)
            # A reason may name what the event alone has.
            self.refusals[reason if len(self.refusals) < REASONS else OTHERWISE] += 1
            return
        if most:
            self.most_usd[known.model] += most
        if known.reused is not None:
            self.reused += 1
        else:
            self.calls[known.model] += 1
            self.likely_usd[known.model] += known.likely


async def survey(
    run: Run,
    places: Sequence[Place],
    settings: Settings,
    database: Database,
    codec: Codec,
    *,
    observe: Callable[[int], None] | None = None,
) -> Surveyed:
    """Read the events of a run's first step and say what it would do. Blocks on the broker, and on Postgres where
    the selection needs it. Raises ``ConfigurationError`` for a field that the events lack.
    """
    choice = changes_for(run.stages[0], run.config.sets).index
    async with AsyncExitStack() as stack:
        waiting, past = stack.enter_context(Waiting()), None
        if choice.past:
            reader = stack.enter_context(TopicReader(settings))
            past = await past_index(choice, reader, settings, codec, database, run, places, stack)
        return await _surveyed(run, places, settings, database, codec, observe, waiting, past)


async def _surveyed(
    run: Run,
    places: Sequence[Place],
    settings: Settings,
    database: Database,
    codec: Codec,
    observe: Callable[[int], None] | None,
    waiting: Waiting,
    past: PastIndex | None,
) -> Surveyed:
    stage = STAGES[run.stages[0]]
    selection = Selection(run.config, database, source_lane=run.source_lane, run=run.run)
    changes = changes_for(stage.name, run.config.sets, fills=run.config.fills)
    claims = Claims(PostgresBodies(database), codec, most_bytes=settings.bodies.max_bytes)
    events = Events(run, stage, changes, codec, claims, first=True)
    found, seen, clock = Surveyed(), Remembered(), DatabaseClock()
    clock.set(await database.now())
    calls = calls_of(run, settings, changes, database, codec, clock) if stage.effect is Effect.PAYS else None
    ahead = _Ahead(run, settings, database, codec, clock, found, waiting, past)
    async for batch in batches(settings, places, BATCH, selection.key):
        decoded = []
        for entry in batch:
            try:
                decoded.append((entry, events.at_hand(entry) or await events.decode(entry)))
            except PoisonError:
                found.unreadable += 1
        takes = await selection.takes(decoded)
        chosen = (incoming for (_, incoming), yes in zip(decoded, takes, strict=True) if yes)
        taken = [incoming for incoming in chosen if seen.add(incoming.meta.event_id)]
        ours = [events.ours(incoming) for incoming in taken]
        found.taken += len(taken)
        found.tenants.update(incoming.meta.tenant for incoming in taken)
        if run.target == "live" and not run.copies_books:
            found.answers += await prospects(database, codec, run.source_lane, taken, clock.now())
        if calls is not None:
            ours = await calls.prepare(ours)
            for known in calls.prepared.values():
                found.call(known, most=Decimal(0) if known.reused is not None else known.most)
        ahead.note(ours)
        found.read += len(batch)
        if observe is not None:
            observe(found.read)
    await ahead.look()
    return found


class _Ahead:
    """What the run has embedded, and the calls of a stage whose prompts one before it makes."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        database: Database,
        codec: Codec,
        clock: Clock,
        found: Surveyed,
        waiting: Waiting,
        past: PastIndex | None,
    ) -> None:
        self._run, self._codec, self._found, self._waiting = run, codec, found, waiting
        self._past, self._model = past, settings.embeddings.model
        self._foresight = Foresight(run, settings, database, codec, clock) if asks_later(run) else None
        self._bounds = {}
        for name in run.stages:
            changes = changes_for(name, run.config.sets, first=name == run.stages[0])
            bounds = bounds_of(name, replay_settings(settings, changes), clock, free=True)
            if bounds is not None:
                self._bounds[name] = bounds
        # Of stages that come later than the events at hand, an enrichment is needed.
        self._now = {name: one for name, one in self._bounds.items() if not self._foresight or name == run.stages[0]}
        self._oldest: datetime | None = None

    def note(self, events: Sequence[Incoming[Any]]) -> None:
        """Count a batch of events as the first stage gets them."""
        for incoming in events:
            for name, bounds in self._now.items():
                more = bounds.of(incoming)
                self._found.embed(name, more)
                if self._past is not None and name == "enrich" and more.texts:
                    meta = incoming.meta
                    self._found.index[self._past.found(meta.tenant, meta.request_id, self._model)] += 1
            if self._foresight is not None:
                value = self._codec.encode(incoming.record)
                self._waiting.put(incoming.meta.tenant, incoming.meta.request_id, value)
                self._oldest = min(self._oldest or incoming.appended_at, incoming.appended_at)

    async def look(self) -> None:
        """Count what comes after the first stage, where the events themselves don't tell."""
        if self._foresight is None or self._oldest is None:
            return
        await self._foresight.look(self._waiting, self._oldest, self._foreseen)

    def _foreseen(self, one: Foreseen) -> None:
        assert self._foresight is not None
        self._found.not_recorded += not one.recorded
        self._found.call(one.known, most=self._foresight.calls.most(one.most))
        for name, bounds in self._bounds.items():
            if name not in self._now:
                self._found.embed(name, bounds.of_enrichment(one.enrichment, one.passages * PASSAGE_BYTES))
