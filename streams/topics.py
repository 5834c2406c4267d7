"""Every topic of a lane, declared once: partitions, retention and size; and how to bring a broker in line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
)

from schemas.errors import ConfigurationError, DependencyDownError
from streams.settings import Settings

DAY_MS = 86_400_000
FOREVER = -1
# What an event may weigh. A dead letter holds an event and its headers, so its topic takes more.
MAX_EVENT_BYTES = 1_000_000
MAX_DEAD_LETTER_BYTES = 1_500_000
TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Topic:
    """A kind of topic. ``partitions`` None: the settings' number."""

    kind: str
    retention_ms: int
    partitions: int | None = None
    max_message_bytes: int = MAX_EVENT_BYTES

    def config(self) -> dict[str, str]:
        """The topic's configuration on the broker."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": "LogAppendTime",
        }


TOPICS = (
    Topic("requests", 7 * DAY_MS),
    Topic("admitted", 7 * DAY_MS),
    Topic("enrichments.high", 7 * DAY_MS),
    Topic("enrichments.normal", 7 * DAY_MS),
    Topic("enrichments.low", 7 * DAY_MS),
    Topic("completions", 30 * DAY_MS),
    Topic("deltas", DAY_MS),
    Topic("chunks", DAY_MS),
    Topic("answers", 30 * DAY_MS),
    Topic("evaluations", 90 * DAY_MS),
    Topic("feedback", 90 * DAY_MS),
    Topic("costs", 90 * DAY_MS),
    Topic("documents", 30 * DAY_MS),
    # Small, not compacted and kept for ever: it tells what was live at any moment.
    Topic("control", FOREVER, partitions=1),
    Topic("alerts", 30 * DAY_MS, partitions=1),
    Topic("dead-letters", 90 * DAY_MS, partitions=1, max_message_bytes=MAX_DEAD_LETTER_BYTES),
)
KINDS = tuple(topic.kind for topic in TOPICS)


def topic_name(prefix: str, lane: str, kind: str) -> str:
    """``<prefix><lane>.<kind>``."""
    return f"{prefix}{lane}.{kind}"


def kind_of(name: str, prefix: str, lane: str) -> str:
    """The kind of the topic ``name``."""
    return name.removeprefix(f"{prefix}{lane}.")


@dataclass(frozen=True, slots=True)
class Difference:
    """What the broker lacks. Topics are never deleted and partitions never removed."""

    create: tuple[str, ...] = ()
    # Topic and the settings to change: name to (now, wanted).
    alter: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    # Topic to (now, wanted).
    grow: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.create or self.alter or self.grow)


def admin_client(settings: Settings) -> AdminClient:
    """An admin client for the broker of the settings."""
    # The client's own lines would land on a command's stderr; what matters is raised.
    quiet = {"log_level": 0}
    return AdminClient({"bootstrap.servers": settings.kafka.bootstrap, **quiet, **settings.kafka.options})


def compare(settings: Settings, lane: str, kinds: Sequence[str] = KINDS) -> Difference:
    """What the broker lacks of a lane's topics. Blocks on it; raises ``DependencyDownError`` when it is away."""
    admin = admin_client(settings)
    try:
        existing = admin.list_topics(timeout=TIMEOUT_S).topics
        wanted = {topic_name(settings.prefix, lane, t.kind): t for t in TOPICS if t.kind in kinds}
        present = [name for name in wanted if name in existing]
        alter = {}
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in present]
        for resource, future in admin.describe_configs(resources).items() if resources else ():
            now = {key: entry.value for key, entry in future.result(TIMEOUT_S).items()}
            changes = {k: (now.get(k, ""), v) for k, v in wanted[resource.name].config().items() if now.get(k) != v}
            if changes:
                alter[resource.name] = changes
    except KafkaException as error:
        raise DependencyDownError("kafka", str(error)) from error
    counts = {name: len(existing[name].partitions) for name in present}
    partitions = {name: topic.partitions or settings.partitions for name, topic in wanted.items()}
    grow = {
        n: (counts[n], partitions[n]) for n in present if wanted[n].partitions is None and counts[n] < partitions[n]
    }
    return Difference(tuple(name for name in wanted if name not in existing), alter, grow)


def apply(settings: Settings, lane: str, difference: Difference, *, grow: bool = False) -> None:
    """Create and alter what ``difference`` names; partitions grow only where asked. Blocks on the broker."""
    admin = admin_client(settings)
    by_name = {topic_name(settings.prefix, lane, topic.kind): topic for topic in TOPICS}
    new = [
        NewTopic(
            name,
            num_partitions=by_name[name].partitions or settings.partitions,
            replication_factor=settings.kafka.replication,
            config=by_name[name].config(),
        )
        for name in difference.create
    ]
    changes = [
        ConfigResource(
            ConfigResource.Type.TOPIC,
            name,
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, (_, value) in wanted.items()
            ],
        )
        for name, wanted in difference.alter.items()
    ]
    try:
        for future in admin.create_topics(new, operation_timeout=TIMEOUT_S).values() if new else ():
            future.result(TIMEOUT_S)
        for future in admin.incremental_alter_configs(changes).values() if changes else ():
            future.result(TIMEOUT_S)
        if grow and difference.grow:
            growth = [NewPartitions(name, wanted) for name, (_, wanted) in difference.grow.items()]
            for future in admin.create_partitions(growth).values():
                future.result(TIMEOUT_S)
    except KafkaException as error:
        raise ConfigurationError(f"topics could not be applied: {error}") from error
