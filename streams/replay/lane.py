"""A run's lane: its topics made and removed, and what of the run's outputs is in them already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaError, KafkaException

from schemas.errors import ConfigurationError
from streams import login
from streams.outputs import kinds_of
from streams.reading import Place as TopicPlace
from streams.reading import Stretch, TopicReader
from streams.replay.gone import noted
from streams.replay.run import Place, Run
from streams.settings import Settings
from streams.stages import STAGES
from streams.topics import KINDS, TIMEOUT_S, admin_client, apply, compare, topic_name


def lane_of(run: str) -> str:
    """The lane of a run's own."""
    return f"replay-{run}"


def run_of_lane(lane: str) -> str:
    """The run whose lane it is; empty for a lane of another kind."""
    return lane.removeprefix("replay-") if lane.startswith("replay-") else ""


def output_kinds(stages: Iterable[str]) -> tuple[str, ...]:
    """The kinds of topic that these stages write, and dead letters."""
    written = {kind for name in stages for record in STAGES[name].outputs for kind in kinds_of(record)}
    return tuple(kind for kind in KINDS if kind in written or kind == "dead-letters")


def make_topics(settings: Settings, run: Run) -> None:
    """Create the topics of the run's lane that are not there. Blocks on the broker."""
    kinds = output_kinds(run.stages)
    difference = compare(settings, run.lane, kinds)
    # A tenant's own topics are for its consumers: a replay's outputs are for whoever ran it.
    shared = {topic_name(settings.prefix, run.lane, kind) for kind in kinds}
    create = tuple(name for name in difference.create if name in shared)
    if create:
        apply(settings, run.lane, type(difference)(create=create))


def remove_topics(settings: Settings, lane: str) -> list[str]:
    """Delete every topic of a run's lane, and every consumer group; their names. Blocks on the broker.

    A run has no group: those are of workers and consumers that somebody started on its lane. Raises
    ``DependencyDownError``, and ``ConfigurationError`` for what the broker refuses.
    """
    if not lane.startswith("replay-"):
        raise ConfigurationError(f"{lane} is no lane of a replay")
    admin, start = admin_client(settings), f"{settings.prefix}{lane}."
    try:
        topics = [name for name in admin.list_topics(timeout=TIMEOUT_S).topics if name.startswith(start)]
        listed = admin.list_consumer_groups(request_timeout=TIMEOUT_S).result(TIMEOUT_S)
        groups = [one.group_id for one in listed.valid if one.group_id.startswith(start)]
        for future in admin.delete_consumer_groups(groups).values() if groups else ():
            future.result(TIMEOUT_S)
        for future in admin.delete_topics(topics, operation_timeout=TIMEOUT_S).values() if topics else ():
            future.result(TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() in (KafkaError.NON_EMPTY_GROUP, KafkaError.TOPIC_AUTHORIZATION_FAILED):
            raise ConfigurationError(f"{lane} can't be removed yet: {error.args[0].str()}") from None
        raise login.down(settings.kafka, error) from error
    return [*topics, *groups]


def ends_of(reader: TopicReader, topics: Sequence[str], step: int) -> tuple[Place, ...]:
    """What a later step reads: all that the steps before wrote to these topics."""
    bounds = reader.ends(reader.places(topics))
    return tuple(
        Place(step=step, topic=topic, partition=number, first=stretch.start, end=stretch.end, next=stretch.start)
        for (topic, number), stretch in sorted(bounds.items())
        if stretch.start < stretch.end
    )


def already_written(
    reader: TopicReader, settings: Settings, run: Run, places: Sequence[Place], *, earlier: Iterable[Place] = ()
) -> frozenset[str]:
    """Ids of events that a step wrote to the lane after it last noted how far it was.

    What was written before that belongs to events that are done. ``places`` are those of the step, ``earlier`` those of
    the steps before it, which ended before this one wrote anything. Memory: the ids of what is not noted. Blocks on the
    broker.
    """
    left = [place for place in places if place.left]
    if not left:
        return frozenset()
    kinds = output_kinds((run.stages[left[0].step],))
    topics = [topic_name(settings.prefix, run.lane, kind) for kind in kinds]
    bounds, before = reader.ends(reader.places(list(reader.existing(topics)))), noted(earlier)
    unread: dict[TopicPlace, Stretch] = {}
    for (topic, number), stretch in bounds.items():
        floor = min(place.written.get(topic, {}).get(number, 0) for place in left)
        start = max(stretch.start, floor, before.get((topic, number), 0))
        if start < stretch.end:
            unread[topic, number] = Stretch(start, stretch.end)
    return frozenset(_ids(reader, unread))


def _ids(reader: TopicReader, stretches: dict[TopicPlace, Stretch]) -> list[str]:
    return [
        (value or b"").decode("utf-8", "replace")
        for entry in reader.read(stretches)
        for name, value in entry.headers
        if name == "ce_id"
    ]
