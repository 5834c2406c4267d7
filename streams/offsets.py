"""How long the broker keeps committed offsets: the second term of the horizon, which settings can only repeat."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]

from streams.settings import Settings
from streams.topics import TIMEOUT_S, admin_client

MINUTES_A_DAY = 1440


def broker_offsets_days(settings: Settings) -> float | None:
    """The broker's ``offsets.retention.minutes`` in days; ``None`` where it may not be read. Blocks on the broker."""
    admin = admin_client(settings)
    try:
        broker = next(iter(admin.list_topics(timeout=TIMEOUT_S).brokers))
        resource = ConfigResource(ConfigResource.Type.BROKER, str(broker))
        entries = admin.describe_configs([resource])[resource].result(TIMEOUT_S)
        return int(entries["offsets.retention.minutes"].value) / MINUTES_A_DAY
    except (KafkaException, KeyError, StopIteration, TypeError, ValueError):
        # An operator with rights to topics alone: the check is a help, not a condition.
        return None


def offsets_warning(broker_days: float | None, settings: Settings) -> str | None:
    """What to say when the broker keeps offsets longer than the settings believe; a shorter time is safe."""
    believed = settings.retention.offsets_days
    if broker_days is None or broker_days <= believed:
        return None
    return (
        f"the broker keeps offsets for {broker_days:g} days, but retention.offsets_days is {believed:g}: set it to"
        f" {broker_days:g} or more, or rows may go before the events that they guard against"
    )
