"""Whether the broker lets a worker do what its stages need: asked before it starts, and again when it was refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient  # type: ignore[attr-defined]

from schemas.errors import DependencyDownError
from streams import security
from streams.acls import Need
from streams.producer import AUTHORIZATION, Producer
from streams.settings import KafkaSettings

TIMEOUT_S = 4.0
# Between two looks while nothing was refused.
INTERVAL_S = 30.0


class Authorization:
    """Asks the broker which of ``needs`` it grants. ``producers``: all of the process's, each knows its refusals."""

    def __init__(self, settings: KafkaSettings, needs: Collection[Need], *, producers: Sequence[Producer] = ()) -> None:
        self._settings, self._needs, self._producers = settings, needs, producers
        self._admin: AdminClient | None = None
        self._granted_at = float("-inf")

    async def probe(self) -> None:
        """Return when everything is granted; seldom asks while nothing was refused.

        Waits seconds at most. Raises ``DependencyDownError`` that names what is not granted.
        """
        now = time.monotonic()
        if self._granted_at > max(now - INTERVAL_S, *(producer.refused_at for producer in self._producers), 0.0):
            return
        missing, sure = await asyncio.to_thread(self._missing)
        if missing:
            raise DependencyDownError(AUTHORIZATION, f"{'; '.join(missing)}; see headrace topics acls")
        if sure:
            self._granted_at = now

    def _missing(self) -> tuple[list[str], bool]:
        """What is not granted, and whether the broker said so of everything."""
        if self._admin is None:
            self._admin = AdminClient(security.librdkafka(self._settings, {"log_level": 0}))
        operations: dict[str, dict[str, Any]] = {"topic": self._topics(self._admin), "group": self._groups(self._admin)}
        states = {need: _state(operations[need.resource].get(need.name), need.operation) for need in self._needs}
        told = [f"{need.operation} of {need.resource} {need.name} {state}" for need, state in states.items() if state]
        return sorted(told), all(state is not None for state in states.values())

    def _topics(self, admin: AdminClient) -> dict[str, Any]:
        names = self._named("topic")
        return _results(
            admin.describe_topics(TopicCollection(names), include_authorized_operations=True, request_timeout=TIMEOUT_S)
        )

    def _groups(self, admin: AdminClient) -> dict[str, Any]:
        names = self._named("group")
        return _results(
            admin.describe_consumer_groups(names, include_authorized_operations=True, request_timeout=TIMEOUT_S)
        )

    def _named(self, resource: str) -> list[str]:
        return sorted({need.name for need in self._needs if need.resource == resource})


def _results(futures: dict[str, Any]) -> dict[str, Any]:
    return dict(_settled(futures))


def _settled(futures: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each name with its description or its error. A broker that is away raises, which is another dependency."""
    for name, future in futures.items():
        try:
            yield name, future.result(TIMEOUT_S)
        except KafkaException as error:
            yield name, error.args[0]


_FORBIDDEN = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED)


def _state(found: Any, operation: str) -> str | None:
    """What is wrong; empty where nothing is, None where the broker did not tell."""
    if isinstance(found, KafkaError):
        if found.code() in _FORBIDDEN:
            return "is not granted"
        if found.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return "has no topic (headrace topics apply)"
        # Kafka itself is away or busy, which its own probe tells.
        return None
    granted = getattr(found, "authorized_operations", None)
    if granted is None or AclOperation[operation] in granted:
        return ""
    return "is not granted"
