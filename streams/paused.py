"""What is paused in a lane, who did it and why, and what waits for it: for commands and reports."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from processors.control import Pause
from processors.control_state import ControlState
from processors.deferred import PostgresDeferred, Waiting
from processors.postgres import Database
from schemas.errors import DependencyDownError, PoisonError
from schemas.records import Control
from streams import security
from streams.opened import Opener, iso
from streams.reading import TopicReader
from streams.settings import Settings
from streams.topics import topic_name


@dataclass(frozen=True, slots=True)
class Held:
    """A pause, with the events that are set aside for it; a paused stage's events wait on its topics instead.

    ``deferred`` None: Postgres could not be asked.
    """

    pause: Pause
    deferred: int | None = 0

    def view(self) -> dict[str, Any]:
        """As JSON."""
        pause = self.pause
        return {
            "kind": pause.kind,
            "name": pause.name,
            "since": iso(pause.since),
            "author": pause.author,
            "reason": pause.reason,
            "control_offset": pause.offset,
            "deferred": self.deferred,
        }

    def line(self) -> str:
        """For a person."""
        pause = self.pause
        by = f" by {pause.author}" if pause.author else ""
        why = f": {pause.reason}" if pause.reason else ""
        waiting = f" ({self.deferred} events set aside)" if self.deferred else ""
        if self.deferred is None:
            waiting = " (how many events are set aside is not known: Postgres is away)"
        return f"{pause.kind} {pause.name} is paused since {iso(pause.since)}{by}{why}{waiting}"


def what_is_paused(settings: Settings, *, lane: str = "live") -> list[Held]:
    """All that is paused now, oldest first. Blocks on the broker, the registry and Postgres.

    Raises ``ConfigurationError`` for a lane without topics, ``DependencyDownError`` when broker or registry are away.
    """
    pauses = read_control(settings, lane=lane).pauses()
    try:
        waiting = what_waits(settings, lane=lane) if pauses else ()
    except DependencyDownError:
        return [Held(pause, None) for pause in pauses]
    return [Held(pause, _set_aside(pause, waiting)) for pause in pauses]


def read_control(settings: Settings, *, lane: str) -> ControlState:
    """The control topic from its first record to its present end. Blocks on broker and registry; raises as above."""
    codec = asyncio.run(security.codec(settings.registry))
    opener, state = Opener(codec, prefix=settings.prefix, lane=lane), ControlState()
    with TopicReader(settings) as reader:
        for entry in reader.read(reader.ends(reader.places([topic_name(settings.prefix, lane, "control")]))):
            record = opener.open(entry).record
            if not isinstance(record, Control):
                continue
            try:
                state.apply(record, offset=entry.offset, at=entry.time)
            except PoisonError:
                # Workers pass it over and count it.
                continue
    return state


def what_waits(settings: Settings, *, lane: str) -> Sequence[Waiting]:
    """The events that are set aside, counted. Blocks on Postgres; raises ``DependencyDownError``."""

    async def run() -> Sequence[Waiting]:
        database = await Database.open(settings.postgres.dsn.get_secret_value(), max_size=1)
        try:
            return await PostgresDeferred(database).waiting(lane)
        finally:
            await database.close()

    return asyncio.run(run())


def _set_aside(pause: Pause, waiting: Sequence[Waiting]) -> int:
    if pause.kind == "stage":
        return 0
    return sum(each.events for each in waiting if pause.name == (each.tenant if pause.kind == "tenant" else each.route))
