"""A dry run: how many events a run would take, without anything begun or spent."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from processors.bodies import PostgresBodies
from processors.clock import DatabaseClock
from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import PoisonError
from streams.claims import Claims
from streams.replay.backfill import prospects
from streams.replay.calls import Calls, calls_of
from streams.replay.changes import changes_for
from streams.replay.events import Events
from streams.replay.remembered import Remembered
from streams.replay.run import Place, Run
from streams.replay.selection import Selection
from streams.replay.work import BATCH, batches
from streams.settings import Settings
from streams.stages import STAGES, Effect


@dataclass(slots=True)
class Surveyed:
    """What a run would do. ``calls`` are those to be made, by model; ``answers`` what becomes of the source lane's.

    Amounts in US dollars: what they cost with one attempt each that generates as many tokens as it may, and the most
    that they can cost with every attempt of their routes.
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
    answers: Counter[str] = field(default_factory=Counter)


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
    stage = STAGES[run.stages[0]]
    selection = Selection(run.config, database, source_lane=run.source_lane, run=run.run)
    changes = changes_for(stage.name, run.config.sets, fills=run.config.fills)
    claims = Claims(PostgresBodies(database), codec, most_bytes=settings.bodies.max_bytes)
    events = Events(run, stage, changes, codec, claims, first=True)
    found, seen, clock = Surveyed(), Remembered(), DatabaseClock()
    clock.set(await database.now())
    calls = calls_of(run, settings, changes, database, codec, clock) if stage.effect is Effect.PAYS else None
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
            await calls.prepare(ours)
            _count(found, calls)
        found.read += len(batch)
        if observe is not None:
            observe(found.read)
    return found


def _count(found: Surveyed, calls: Calls) -> None:
    """Add a batch of calls."""
    for known in calls.prepared.values():
        if known.error is not None or not known.model:
            found.refused += 1
        elif known.reused is not None:
            found.reused += 1
        else:
            found.calls[known.model] += 1
            found.likely_usd[known.model] += known.likely
            found.most_usd[known.model] += known.most
