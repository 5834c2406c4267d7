"""What a resumed step took last, so that a redelivery of it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from schemas.errors import PoisonError
from streams.reading import Entry, TopicReader
from streams.replay.events import Events
from streams.replay.remembered import Remembered
from streams.replay.run import Place, RunConfig
from streams.replay.selection import Selection

# Of a partition, so many events before the first that is not done are looked at.
LOOKED_BACK = 10_000


def behind(reader: TopicReader, places: Sequence[Place]) -> list[Place]:
    """The last events that are done, as places to be read. Blocks on the broker."""
    bounds = reader.ends([(place.topic, place.partition) for place in places])
    found = []
    for place in places:
        start = max(place.first, place.next - LOOKED_BACK, bounds[place.topic, place.partition].start)
        found.append(replace(place, next=start, end=place.next))
    return [place for place in found if place.left]


async def remember(
    batch: Sequence[Entry], seen: Remembered, events: Events, config: RunConfig, selection: Selection | None
) -> None:
    """Remember those of a batch that the step took: what it passed over may still be taken at another offset.

    Blocks on the registry, and on Postgres as the selection does. Raises ``DependencyDownError``.
    """
    if selection is None or not (config.where or config.ids or config.offsets or config.sample < 1):
        for entry in batch:
            for name, value in entry.headers:
                if name == "ce_id":
                    seen.add((value or b"").decode("utf-8", "replace"))
        return
    read = []
    for entry in batch:
        try:
            read.append((entry, await events.decode(entry)))
        except PoisonError:
            # It was buried, and is buried again wherever else it lies.
            continue
    for (_, incoming), taken in zip(read, await selection.takes(read), strict=True):
        if taken:
            seen.add(incoming.meta.event_id)
