"""How much of a paused stage, route or tenant is still in process, by what the workers report and the journal holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from processors.control import Pause
from processors.postgres import Database
from streams.settings import Settings
from streams.stages import STAGES

# A worker that has not reported for this long is gone: its events are with another worker, or wait.
GONE_S = 30.0
LOOK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What is in process. ``events`` by worker and stage; ``calls`` are open in the journal, under a live lease.

    ``behind``: workers that have not read the pause yet. ``workers``: how many run the stages in question.
    """

    events: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    behind: tuple[str, ...] = ()
    workers: int = 0

    def __bool__(self) -> bool:
        return bool(self.events or self.calls or self.behind)

    def view(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "events": self.events,
            "open_calls": self.calls,
            "behind": list(self.behind),
            "workers": self.workers,
        }

    def line(self) -> str:
        """For a person."""
        parts = [f"{count} in process at {place}" for place, count in self.events.items()]
        parts += [f"{self.calls} calls open in the journal"] if self.calls else []
        parts += (
            [f"{len(self.behind)} workers have not read the pause: {', '.join(self.behind)}"] if self.behind else []
        )
        return "; ".join(parts) or "nothing is in process"


def drained(
    settings: Settings, pause: Pause, *, lane: str, timeout_s: float, note: Callable[[Left], None] = lambda _: None
) -> Left:
    """Wait until nothing of what is paused is in process; what is left when that takes ``timeout_s``.

    Of a route or tenant that is what the stages which set its events aside have in hand: enrich and complete. Blocks
    on Postgres; raises ``DependencyDownError``.
    """
    return asyncio.run(_drained(settings, pause, lane, timeout_s, note))


async def _drained(settings: Settings, pause: Pause, lane: str, timeout_s: float, note: Callable[[Left], None]) -> Left:
    database = await Database.open(settings.postgres.dsn.get_secret_value(), max_size=1)
    ends = time.monotonic() + timeout_s
    try:
        while True:
            left = await look(database, pause, lane=lane)
            if not left or time.monotonic() >= ends:
                return left
            note(left)
            await asyncio.sleep(min(LOOK_S, max(0.0, ends - time.monotonic())))
    finally:
        await database.close()


async def look(database: Database, pause: Pause, *, lane: str) -> Left:
    """What is in process now. The journal is asked when the workers report nothing more."""
    rows = await database.execute(_REPORTS, {"lane": lane, "gone_s": GONE_S})
    stages = (pause.name,) if pause.kind == "stage" else tuple(n for n, stage in STAGES.items() if stage.defers)
    concerned = [row for row in rows if set(row[1].split("+")) & set(stages)]
    events: dict[str, int] = {}
    behind = []
    for slot, _, offset, in_process in concerned:
        if offset is None or offset < pause.offset:
            behind.append(slot)
            continue
        found = {f"{slot} {name}": _events((in_process or {}).get(name), pause) for name in stages}
        events |= {place: count for place, count in found.items() if count}
    calls = 0
    if not events and not behind and "complete" in stages:
        calls = await _open_calls(database, pause, lane)
    return Left(events=events, calls=calls, behind=tuple(behind), workers=len(concerned))


def _events(figures: dict[str, Any] | None, pause: Pause) -> int:
    if figures is None:
        return 0
    if pause.kind == "stage":
        return int(figures.get("events", 0))
    return int(figures.get(f"{pause.kind}s", {}).get(pause.name, 0))


async def _open_calls(database: Database, pause: Pause, lane: str) -> int:
    names = {kind: pause.name if pause.kind == kind else None for kind in ("tenant", "route")}
    rows: Sequence[tuple[Any, ...]] = await database.execute(_OPEN, {"lane": lane, **names})
    return int(rows[0][0])


_REPORTS = """
    SELECT slot, stages, (report ->> 'control_offset')::bigint, report -> 'in_process' FROM worker_reports
    WHERE lane = %(lane)s AND updated_at > clock_timestamp() - make_interval(secs => %(gone_s)s)
    ORDER BY slot, stages
"""
# What a provider has in a batch is in no worker's hands, and may stay there for a day.
_OPEN = """
    SELECT count(*) FROM calls AS c
    WHERE c.lane = %(lane)s AND c.state = 'calling' AND c.lease_until > clock_timestamp()
      AND coalesce(left(c.lease_owner, 6), '') <> 'batch:'
      AND (%(tenant)s::text IS NULL OR c.tenant = %(tenant)s)
      AND (%(route)s::text IS NULL OR EXISTS (
          SELECT FROM attempts AS a WHERE a.call_id = c.call_id AND a.state = 'calling' AND a.route = %(route)s))
"""
