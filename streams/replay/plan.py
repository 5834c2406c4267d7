"""Planning: which stages, and which offsets of which partitions, decided before anything is begun.

A range by time is found by the broker's index of times, whatever the topic's size. The end is the end of the topic at
this moment: what is published later is not replayed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from schemas.errors import ConfigurationError
from streams.moments import moment
from streams.reading import Place as TopicPlace
from streams.reading import Stretch, TopicReader
from streams.replay.run import Place, RunConfig
from streams.replay.selection import Offsets
from streams.replay.where import nearest
from streams.settings import Settings
from streams.stages import STAGES
from streams.topics import KINDS, input_topics

# In the order in which events pass them; ``account`` reads the costs of those before it.
CHAIN = ("enrich", "complete", "filter", "evaluate", "account")
_NOT_REPLAYED: Mapping[str, str] = {
    "admit": "it decides about producers' limits and repeated requests as they come; begin at enrich",
    "release": "streams of live text are not read twice; replay filter, whose answers have the text",
    "index": "documents are indexed again by headrace ingest",
}
# A clock a little ahead of the broker's is no future.
SLACK = timedelta(seconds=60)
# So long a time that was advised is good for, or a tenth of what is kept where that is less.
TO_RETYPE = timedelta(minutes=5)
# ``retention.ms`` of what is kept for ever.
FOREVER_MS = -1


def stages_of(stage: str, through: str | None) -> tuple[str, ...]:
    """The stages of a run, from the first to the last. Raises ``ConfigurationError`` for what is none."""
    first, last = _known("--stage", stage), _known("--through", through or stage)
    start, end = CHAIN.index(first), CHAIN.index(last)
    if end < start:
        raise ConfigurationError(f"--through {last} comes before --stage {first}; events pass {', '.join(CHAIN)}")
    chosen = CHAIN[start : end + 1]
    # The books are one stage among others, but what a run pays for itself is booked in any case.
    return (*chosen, "account") if "complete" in chosen and "account" not in chosen else chosen


def _known(option: str, name: str) -> str:
    if name in CHAIN:
        return name
    if name in STAGES:
        raise ConfigurationError(f"{option} {name} is not replayed: {_NOT_REPLAYED[name]}")
    raise ConfigurationError(f"{option}: there is no stage {name!r}; {nearest(name, CHAIN)}")


def source_kinds(stage: str) -> tuple[str, ...]:
    """The kinds of topic that a replay of a stage reads. Feedback stays with the answers it was given to."""
    return tuple(source.kind for source in STAGES[stage].inputs if source.kind != "feedback")


def source_topics(settings: Settings, lane: str, stage: str) -> tuple[str, ...]:
    """The topics of a lane that a replay of a stage reads."""
    return tuple(topic for kind in source_kinds(stage) for topic in input_topics(settings, lane, kind))


def times(since: str | None, until: str | None, *, now: datetime) -> tuple[datetime | None, datetime | None]:
    """``--since`` and ``--until``. Raises ``ConfigurationError`` for what is no time, in the future, or no range."""
    found = tuple(None if text is None else moment(text, now=now) for text in (since, until))
    for name, one in zip(("--since", "--until"), found, strict=True):
        if one is not None and one > now + SLACK:
            raise ConfigurationError(
                f"{name} {one:%Y-%m-%dT%H:%M:%SZ} is in the future; it is {now:%Y-%m-%dT%H:%M:%SZ}"
            )
    first, last = found
    if first is not None and last is not None and last <= first:
        raise ConfigurationError(f"--until {said(last)} is not after --since {said(first)}")
    return first, last


class Planner:
    """Finds the offsets of a run's first step. Blocks on the broker; raises ``DependencyDownError``."""

    def __init__(self, settings: Settings, reader: TopicReader, lane: str) -> None:
        self._settings, self._reader, self._lane = settings, reader, lane

    def places(self, stage: str, config: RunConfig, *, earlier: Sequence[Place] = ()) -> tuple[Place, ...]:
        """What the first step reads: the places of an ``earlier`` run, or those that the config names.

        Raises ``ConfigurationError`` for a topic that is not there, for what retention has removed, and where there is
        nothing to read.
        """
        topics = source_topics(self._settings, self._lane, stage)
        bounds = self._reader.ends(self._reader.places(topics))
        if earlier:
            found = self._again(earlier, bounds)
        elif config.offsets:
            found = self._named(config, bounds)
        else:
            found = self._between(config, bounds)
        places = tuple(
            Place(step=0, topic=topic, partition=number, first=stretch.start, end=stretch.end, next=stretch.start)
            for (topic, number), stretch in sorted(found.items())
            if stretch.start < stretch.end
        )
        if not places:
            raise ConfigurationError(f"nothing to replay: {self._left(bounds)}")
        return places

    def _between(self, config: RunConfig, bounds: Mapping[TopicPlace, Stretch]) -> dict[TopicPlace, Stretch]:
        starts = {place: stretch.start for place, stretch in bounds.items()}
        ends = {place: stretch.end for place, stretch in bounds.items()}
        if config.since is not None:
            starts = self._reader.offsets_at(list(bounds), config.since)
            self._check_kept(config.since, starts, bounds)
        if config.until is not None:
            by_time = self._reader.offsets_at(list(bounds), config.until)
            ends = {place: min(end, by_time[place]) for place, end in ends.items()}
        return {place: Stretch(starts[place], max(starts[place], ends[place])) for place in bounds}

    def _check_kept(
        self, since: datetime, starts: Mapping[TopicPlace, int], bounds: Mapping[TopicPlace, Stretch]
    ) -> None:
        """Refuse a range that begins before what is left: a part of it would be missing in silence."""
        gone = [place for place, start in starts.items() if start == bounds[place].start > 0]
        # The latest of all, so that what is advised is refused by none of the others.
        begins = ((begin, place) for place in gone if (begin := self._begin(place, bounds[place], since)))
        begin, (topic, partition) = max(begins, default=(since, ("", 0)))
        if begin <= since:
            return
        left = bounds[topic, partition]
        what = f"begins at {said(begin)}; begin there"
        if left.start == left.end:
            what = f"is empty, and what it had may have been removed; begin at {said(begin)}"
        raise ConfigurationError(
            f"--since {said(since)} is before what retention has left of {topic}: partition {partition} {what}"
        )

    def _begin(self, place: TopicPlace, left: Stretch, since: datetime) -> datetime | None:
        """From when on a partition that retention has cut has all of its events, as far as is known.

        Of an empty one with slack, for what its retention keeps moves on until ``--since`` is written anew.
        """
        if left.start < left.end:
            return self._time_of(place, left.start)
        kept_ms = min(
            (
                self._settings.retention.resolved().topic_ms(kind)
                for kind in KINDS
                if place[0] in input_topics(self._settings, self._lane, kind)
            ),
            default=FOREVER_MS,
        )
        if kept_ms == FOREVER_MS:
            return None
        kept = timedelta(milliseconds=kept_ms)
        begin = datetime.now(UTC) - kept
        return begin + min(TO_RETYPE, kept / 10) if since < begin else None

    def _time_of(self, place: TopicPlace, offset: int) -> datetime | None:
        stretch = Stretch(offset, min(offset + 1, self._reader.ends([place])[place].end))
        return next((entry.time for entry in self._reader.read({place: stretch})), None)

    def _named(self, config: RunConfig, bounds: Mapping[TopicPlace, Stretch]) -> dict[TopicPlace, Stretch]:
        found = {}
        for place, (first, end) in Offsets(config.offsets).stretches().items():
            known = bounds.get(place)
            if known is None:
                topics = ", ".join(sorted({topic for topic, _ in bounds}))
                raise ConfigurationError(
                    f"--offsets: partition {place[1]} of {place[0]} is none that is read: {topics}"
                )
            _check_within("--offsets", place, Stretch(first, end), known)
            found[place] = Stretch(first, end)
        return found

    def _again(self, earlier: Sequence[Place], bounds: Mapping[TopicPlace, Stretch]) -> dict[TopicPlace, Stretch]:
        found = {}
        for one in earlier:
            place = (one.topic, one.partition)
            if place not in bounds:
                raise ConfigurationError(
                    f"--run: that run reads {one.topic}, which this stage does not; choose the same --stage"
                )
            _check_within("--run", place, Stretch(one.first, one.end), bounds[place])
            found[place] = Stretch(one.first, one.end)
        return found

    def _left(self, bounds: Mapping[TopicPlace, Stretch]) -> str:
        kept = {place: stretch for place, stretch in bounds.items() if stretch.start < stretch.end}
        if not kept:
            return f"there are no events in {', '.join(sorted({topic for topic, _ in bounds}))}"
        times_ = [time for place, stretch in kept.items() if (time := self._time_of(place, stretch.start))]
        last = [time for place, stretch in kept.items() if (time := self._time_of(place, stretch.end - 1))]
        if not times_ or not last:
            return "no event is in the range"
        topics = ", ".join(sorted({topic for topic, _ in kept}))
        return f"no event is in the range; {topics} has those from {said(min(times_))} to {said(max(last))}"


def said(time: datetime) -> str:
    """A time in UTC, rounded up to the millisecond: whoever writes it back names none that is earlier."""
    up = time + timedelta(microseconds=-time.microsecond % 1_000)
    return f"{up.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds').removesuffix('.000')}Z"


def _check_within(option: str, place: TopicPlace, wanted: Stretch, known: Stretch) -> None:
    if wanted.start < known.start or wanted.end > known.end:
        left = f"{known.start} to {known.end - 1}" if known.start < known.end else "nothing"
        raise ConfigurationError(
            f"{option}: {place[0]}, partition {place[1]}, has {left}; {wanted.start} to {wanted.end - 1} were asked for"
        )
