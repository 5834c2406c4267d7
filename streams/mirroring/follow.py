"""What has come since: how far the topics of a stage go now, and their entries, over one connection that stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace

from schemas.errors import ConfigurationError
from streams.reading import Entry, Stretch, TopicReader
from streams.reading import Place as TopicPlace
from streams.replay.lane import output_kinds
from streams.replay.plan import source_topics
from streams.replay.run import GONE, Place, Run
from streams.replay.work import BATCH_BYTES
from streams.settings import Settings
from streams.topics import topic_name


def starting_places(reader: TopicReader, settings: Settings, lane: str, stage: str) -> tuple[Place, ...]:
    """Every partition of what a stage reads in a lane, from what comes next. Blocks on the broker.

    Raises ``ConfigurationError`` for a topic that is not there.
    """
    bounds = reader.ends(reader.places(source_topics(settings, lane, stage)))
    return tuple(
        Place(step=0, topic=topic, partition=number, first=stretch.end, end=stretch.end, next=stretch.end)
        for (topic, number), stretch in sorted(bounds.items())
    )


def extended(
    reader: TopicReader, settings: Settings, run: Run, number: int, places: Sequence[Place]
) -> tuple[Place, ...]:
    """The places of a step with the ends that their topics have now, and those of new partitions. Blocks on the broker.

    What retention removed before it was read is counted as gone, by offsets. Raises ``ConfigurationError`` for a topic
    that was deleted, or made again.
    """
    if number == 0:
        topics = source_topics(settings, run.source_lane, run.stages[0])
    else:
        # A lane of a run has no topics of tenants.
        topics = source_topics(settings.model_copy(update={"tenants": {}}), run.lane, run.stages[number])
    known = {(place.topic, place.partition): place for place in places}
    found = []
    for (topic, partition), bounds in sorted(reader.ends(reader.places(topics)).items()):
        place = known.get((topic, partition))
        if place is None:
            place = Place(
                step=number, topic=topic, partition=partition, first=bounds.start, end=bounds.end, next=bounds.start
            )
        found.append(_moved(place, bounds))
    return tuple(found)


def _moved(place: Place, bounds: Stretch) -> Place:
    if bounds.end < place.next:
        raise ConfigurationError(
            f"{place.topic}, partition {place.partition}, ends at {bounds.end}, and {place.next} was reached already: "
            "the topic was made again; delete the mirror and start it anew"
        )
    if bounds.start > place.next:
        counts = Counter(place.counts)
        counts[GONE] += bounds.start - place.next
        place = replace(place, next=bounds.start, counts=dict(counts))
    return replace(place, end=max(place.end, bounds.end))


def written(reader: TopicReader, settings: Settings, run: Run, stage: str) -> Mapping[str, Mapping[int, int]]:
    """How far the topics are written that a stage writes to in the run's lane. Blocks on the broker."""
    topics = [topic_name(settings.prefix, run.lane, kind) for kind in output_kinds((stage,))]
    ends: dict[str, dict[int, int]] = {}
    for (topic, number), stretch in reader.ends(reader.places(list(reader.existing(topics)))).items():
        ends.setdefault(topic, {})[number] = stretch.end
    return ends


def control_end(reader: TopicReader, settings: Settings, lane: str) -> int:
    """How far a lane's control topic goes; 0 where there is none. Blocks on the broker."""
    topic = topic_name(settings.prefix, lane, "control")
    return sum(stretch.end for stretch in reader.ends(reader.places(list(reader.existing([topic])))).values())


async def chunks(reader: TopicReader, stretches: Mapping[TopicPlace, Stretch], most: int) -> AsyncIterator[list[Entry]]:
    """The entries of these stretches, so many at a time. Blocks on the broker."""
    entries = reader.read(stretches)
    while chunk := await asyncio.to_thread(_chunk, entries, most):
        yield chunk


def _chunk(entries: Iterator[Entry], most: int) -> list[Entry]:
    chunk, size = [], 0
    for entry in entries:
        chunk.append(entry)
        size += entry.size
        if len(chunk) >= most or size >= BATCH_BYTES:
            break
    return chunk
