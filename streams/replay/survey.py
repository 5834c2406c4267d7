"""A dry run: how many events a run would take, without anything begun or spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import PoisonError
from streams.replay.changes import changes_for
from streams.replay.conduct import BATCH, batches
from streams.replay.events import Events
from streams.replay.run import Place, Run
from streams.replay.selection import Selection
from streams.settings import Settings
from streams.stages import STAGES


@dataclass(slots=True)
class Surveyed:
    """What a run would do. ``calls`` by model are those to be made, with the most they can cost in US dollars."""

    read: int = 0
    taken: int = 0
    unreadable: int = 0
    tenants: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    price_usd: dict[str, Decimal] = field(default_factory=dict)
    reused: int = 0
    lacking: str = ""


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
    selection = Selection(run.config, database, source_lane=run.source_lane)
    events = Events(run, stage, changes_for(stage.name, run.config.sets), codec, None, first=True)
    found, seen = Surveyed(), set[str]()
    async for batch in batches(settings, places, BATCH, selection.key):
        decoded = []
        for entry in batch:
            try:
                decoded.append((entry, await events.decode(entry)))
            except PoisonError:
                found.unreadable += 1
        takes = await selection.takes(decoded)
        for (_, incoming), yes in zip(decoded, takes, strict=True):
            if yes and incoming.meta.event_id not in seen:
                seen.add(incoming.meta.event_id)
                found.taken += 1
                found.tenants[incoming.meta.tenant] += 1
        found.read += len(batch)
        if observe is not None:
            observe(found.read)
    return found
