"""What a run stands on and may be gone meanwhile: the events it has yet to read, and the outputs it has noted."""

from __future__ import annotations

from collections.abc import Iterable

from schemas.errors import ConfigurationError
from streams.reading import Place as TopicPlace
from streams.reading import Stretch, TopicReader
from streams.replay.run import Place, Run


def noted(places: Iterable[Place]) -> dict[TopicPlace, int]:
    """One past the furthest output that is noted, by topic and partition."""
    found: dict[TopicPlace, int] = {}
    for place in places:
        for topic, ends in place.written.items():
            for number, end in ends.items():
                found[topic, number] = max(end, found.get((topic, number), 0))
    return found


def check_outputs(reader: TopicReader, run: Run, places: Iterable[Place]) -> None:
    """Raise ``ConfigurationError`` where a topic of the run's lane ends before what was written to it.

    It was deleted, and perhaps made again: what is done would not be done once more. Blocks on the broker.
    """
    ours = {place: end for place, end in noted(places).items() if f"{run.lane}." in place[0]}
    counts = reader.existing(sorted({topic for topic, _ in ours}))
    ends = reader.ends([place for place in ours if place[1] < counts.get(place[0], 0)])
    for place, end in sorted(ours.items()):
        left = ends[place].end if place in ends else 0
        if left < end:
            raise ConfigurationError(
                f"outputs of the run are gone: {place[0]}, partition {place[1]}, ends at {left}, and {end} were "
                "written to it; delete the run and begin again"
            )


def check_sources(reader: TopicReader, places: Iterable[Place]) -> None:
    """Raise ``ConfigurationError`` where events that a place has yet to read are gone. Blocks on the broker.

    Retention removed them, or the topic was deleted and made again.
    """
    for place, bounds in _bounded(reader, places):
        if bounds.start > place.next or bounds.end < place.end:
            raise _lost(place, bounds)


def check_ends(reader: TopicReader, places: Iterable[Place]) -> None:
    """As ``check_sources``, once the places were read: only a topic that is shorter now can have lost something."""
    for place, bounds in _bounded(reader, places):
        if bounds.end < place.end:
            raise _lost(place, bounds)


def _bounded(reader: TopicReader, places: Iterable[Place]) -> list[tuple[Place, Stretch]]:
    left = {(place.topic, place.partition): place for place in places if place.left}
    return [(left[key], bounds) for key, bounds in sorted(reader.ends(list(left)).items())]


def _lost(place: Place, bounds: Stretch) -> ConfigurationError:
    kept = f"{bounds.start} to {bounds.end - 1}" if bounds.start < bounds.end else "nothing"
    return ConfigurationError(
        f"events of the run are gone: {place.topic}, partition {place.partition}, has {kept}; "
        f"{place.next} to {place.end - 1} were not replayed yet; begin a run over what is left"
    )
