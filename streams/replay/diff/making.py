"""Makes a report: both sides gathered, compared and summed up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from streams.replay.desk import Desk
from streams.replay.diff.compare import compare, verdict_changes
from streams.replay.diff.lanes import What, both
from streams.replay.diff.meaning import embedder, look_at_meaning
from streams.replay.diff.reading import Gathering
from streams.replay.diff.report import report, seed_of
from streams.replay.diff.store import Pairs
from streams.replay.run import Run

LIVE = "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a report is to look at. ``embed``: at most so many pairs of texts by meaning; see ``compare``.

    ``since``: only requests that were accepted since then, by the broker's time.
    """

    decide: tuple[str, ...] = ()
    tolerance: float = 0.05
    shown: int = 10
    embed: int = 200
    since: datetime | None = None


async def make_report(
    desk: Desk, run: Run, against: Run | None, asked: Asked, *, observe: Callable[[str, int], None] | None = None
) -> dict[str, Any]:
    """The report of a run against another one, or against what it replayed.

    ``observe`` is told what is done, and how many records or pairs of it. Blocks on the broker and the embedding
    endpoint, and on Postgres. Raises ``ConfigurationError`` where there is nothing to compare, and
    ``DependencyDownError``.
    """
    tell = observe or _unobserved
    what = both(run, against)
    places = (await desk.progress(run)).of_step(0)
    with Pairs() as pairs:
        gathering = Gathering(
            desk.settings, desk.database, desk.codec, pairs, observe=lambda done: tell("reading", done)
        )
        gathered = await gathering.gather(run, places, what, against=against, since=asked.since)
        await asyncio.to_thread(compare_all, pairs, asked.decide, asked.tolerance, tell)
        notes = list(gathered.notes)
        notes += [f"{count} records of {topic} can't be read" for topic, count in sorted(gathered.unreadable.items())]
        if what.kind not in ("evaluations", "books"):
            async with embedder(desk.settings) as by:
                note = await look_at_meaning(pairs, by, most=asked.embed)
            notes += [note] if note else []
        if not what.scored and what.kind != "books":
            notes.append("nothing was scored on both sides: replay --through evaluate to compare scores")
        made = await asyncio.to_thread(report, pairs, shown=asked.shown, seed=seed_of(run.run))
    return {**heading(run, against, what), "notes": notes, **made}


def compare_all(
    pairs: Pairs, decide: Collection[str], tolerance: float, tell: Callable[[str, int], None] | None = None
) -> None:
    """Compare every pair. Blocks on the disk, and costs the processor about a millisecond for a pair of long texts."""
    for number, (base, run, scores) in enumerate(pairs.pairs(), start=1):
        difference = compare(base, run, scores, decide=decide, tolerance=tolerance)
        pairs.add(difference, verdict_changes(base, run))
        if number % 100 == 0:
            (tell or _unobserved)("comparing", number)


def _unobserved(doing: str, done: int) -> None:
    """Nobody wants to know."""


def heading(run: Run, against: Run | None, what: What) -> dict[str, Any]:
    """What is compared with what."""
    other: dict[str, Any] = {"name": run.source_lane, "lane": run.source_lane, "run": None}
    if against is not None:
        other = {"name": against.name, "lane": against.lane, "run": against.run, "sets": dict(against.config.sets)}
    return {
        "run": {
            "run": run.run,
            "name": run.name,
            "lane": run.lane,
            "source_lane": run.source_lane,
            "stages": list(run.stages),
            "state": run.state,
            "mirror": run.config.mirror,
            "sets": dict(run.config.sets),
        },
        "against": other,
        "what": what.kind,
    }
