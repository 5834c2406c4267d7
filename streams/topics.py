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

from schemas.errors import ConfigurationError
from streams import login, security
from streams.retention import TOPIC_DAYS, Retention
from streams.settings import Settings

# What an event may weigh. A dead letter holds an event and its headers, so its topic takes more.
MAX_EVENT_BYTES = 1_000_000
MAX_DEAD_LETTER_BYTES = 1_500_000
TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Topic:
    """A kind of topic. ``partitions`` None: the settings' number. How long it is kept is in ``streams.retention``."""

    kind: str
    partitions: int | None = None
    max_message_bytes: int = MAX_EVENT_BYTES
    # Whose it is, where it is not everybody's.
    tenant: str = ""

    @property
    def name(self) -> str:
        """Its name without prefix and lane."""
        return f"{self.kind}.{self.tenant}" if self.tenant else self.kind

    def config(self, retention: Retention) -> dict[str, str]:
        """The topic's configuration on the broker."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(retention.topic_ms(self.kind)),
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": "LogAppendTime",
        }


# Of these there is one partition, and dead letters may be larger than events.
_SPECIAL = {
    "control": Topic("control", partitions=1),
    "alerts": Topic("alerts", partitions=1),
    "dead-letters": Topic("dead-letters", partitions=1, max_message_bytes=MAX_DEAD_LETTER_BYTES),
}
TOPICS = tuple(_SPECIAL.get(kind) or Topic(kind) for kind in TOPIC_DAYS)
KINDS = tuple(topic.kind for topic in TOPICS)
# Of these each tenant has one of its own, where producers are not trusted: what it says, and what it is told.
TENANT_OUTPUTS = ("answers", "chunks")
TENANT_KINDS = ("requests", *TENANT_OUTPUTS)


def topic_name(prefix: str, lane: str, kind: str) -> str:
    """``<prefix><lane>.<kind>``."""
    return f"{prefix}{lane}.{kind}"


def kind_of(name: str, prefix: str, lane: str) -> str:
    """The kind of the topic ``name``; a tenant's topic has the kind of the shared one."""
    kind = name.removeprefix(f"{prefix}{lane}.")
    shared = kind.partition(".")[0]
    return shared if shared in TENANT_KINDS else kind


def tenant_of(name: str, prefix: str, lane: str) -> str:
    """The tenant whose topic ``name`` is; empty for a shared one."""
    kind, _, tenant = name.removeprefix(f"{prefix}{lane}.").partition(".")
    return tenant if kind in TENANT_KINDS else ""


def all_topics(settings: Settings) -> tuple[Topic, ...]:
    """Every topic of a lane: the shared ones, and those of tenants."""
    own = (Topic(kind, tenant=tenant) for tenant in settings.tenant_topics for kind in TENANT_KINDS)
    return (*TOPICS, *own)


def input_topics(settings: Settings, lane: str, kind: str) -> tuple[str, ...]:
    """Where a stage reads its input of a kind: requests from the tenants' own topics, where there are such."""
    kinds = [f"{kind}.{tenant}" for tenant in settings.tenant_topics] if kind == "requests" else []
    return tuple(topic_name(settings.prefix, lane, each) for each in kinds or [kind])


def output_topics(settings: Settings, lane: str, kind: str) -> tuple[str, ...]:
    """Where a stage may write its output of a kind: the shared topic, and the tenants' own."""
    own = [f"{kind}.{tenant}" for tenant in settings.tenant_topics] if kind in TENANT_OUTPUTS else []
    return tuple(topic_name(settings.prefix, lane, each) for each in [kind, *own])


def producer_topic(settings: Settings, lane: str, kind: str, tenant: str) -> str:
    """Where a tenant's producer writes. Raises ``ConfigurationError`` for a tenant that has no topic of its own."""
    if kind != "requests" or not settings.tenant_topics:
        return topic_name(settings.prefix, lane, kind)
    return _own(settings, lane, kind, tenant)


def consumer_topic(settings: Settings, lane: str, kind: str, tenant: str | None) -> str:
    """Where a tenant's consumer reads; None reads the shared one. Raises ``ConfigurationError`` as above."""
    if tenant is None or kind not in TENANT_KINDS or not settings.tenant_topics:
        return topic_name(settings.prefix, lane, kind)
    return _own(settings, lane, kind, tenant)


def _own(settings: Settings, lane: str, kind: str, tenant: str) -> str:
    if tenant not in settings.tenant_topics:
        known = ", ".join(settings.tenant_topics)
        raise ConfigurationError(f"tenants: {tenant!r} is none of {known}, so there is no topic of its own for it")
    return topic_name(settings.prefix, lane, f"{kind}.{tenant}")


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
    """An admin client for the broker of the settings. Raises ``ConfigurationError`` for a login that is refused."""
    login.check_login(settings.kafka)
    # The client's own lines would land on a command's stderr; what matters is raised.
    quiet = {"log_level": 0}
    return AdminClient(security.librdkafka(settings.kafka, quiet))


def compare(settings: Settings, lane: str, kinds: Sequence[str] = KINDS) -> Difference:
    """What the broker lacks of a lane's topics. Blocks on it; raises ``DependencyDownError`` when it is away."""
    admin = admin_client(settings)
    try:
        existing = admin.list_topics(timeout=TIMEOUT_S).topics
        retention = settings.retention.resolved()
        wanted = {topic_name(settings.prefix, lane, t.name): t for t in all_topics(settings) if t.kind in kinds}
        present = [name for name in wanted if name in existing]
        alter = {}
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in present]
        for resource, future in admin.describe_configs(resources).items() if resources else ():
            now = {key: entry.value for key, entry in future.result(TIMEOUT_S).items()}
            declared = wanted[resource.name].config(retention)
            changes = {k: (now.get(k, ""), v) for k, v in declared.items() if now.get(k) != v}
            if changes:
                alter[resource.name] = changes
    except KafkaException as error:
        raise login.down(settings.kafka, error) from error
    counts = {name: len(existing[name].partitions) for name in present}
    partitions = {name: topic.partitions or settings.partitions for name, topic in wanted.items()}
    grow = {
        n: (counts[n], partitions[n]) for n in present if wanted[n].partitions is None and counts[n] < partitions[n]
    }
    return Difference(tuple(name for name in wanted if name not in existing), alter, grow)


def apply(settings: Settings, lane: str, difference: Difference, *, grow: bool = False) -> None:
    """Create and alter what ``difference`` names; partitions grow only where asked. Blocks on the broker."""
    admin, retention = admin_client(settings), settings.retention.resolved()
    by_name = {topic_name(settings.prefix, lane, topic.name): topic for topic in all_topics(settings)}
    new = [
        NewTopic(
            name,
            num_partitions=by_name[name].partitions or settings.partitions,
            replication_factor=settings.kafka.replication,
            config=by_name[name].config(retention),
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
