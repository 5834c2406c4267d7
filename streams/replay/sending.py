"""Sending a run's outputs in bulk: handed to the client at once, acknowledged together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.errors import ConfigurationError, DependencyDownError
from streams import login, security
from streams.producer import Outgoing
from streams.settings import Settings
from streams.topics import MAX_DEAD_LETTER_BYTES

_MISSING = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_FORBIDDEN = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE)
FLUSH_S = 1.0
AGAIN = "delete the run and begin again"


class Sender(Protocol):
    """Where outputs go."""

    def send(self, outgoing: Iterable[Outgoing]) -> None:
        """Hand records over, in order within a partition. Does not wait for the broker."""
        ...

    async def settle(self) -> Mapping[str, Mapping[int, int]]:
        """Wait until all that was handed over is acknowledged; how far each topic's partitions were written so far.

        Raises ``DependencyDownError`` when the broker is away, with some perhaps written, and ``ConfigurationError``
        for a topic that is missing or forbidden, or takes smaller records than it is declared to.
        """
        ...


class BulkSender:
    """A confluent-kafka producer. A key lands where Java's client would put it (murmur2)."""

    def __init__(self, settings: Settings) -> None:
        login.check_login(settings.kafka)
        self._kafka = settings.kafka
        own = {
            "acks": "all",
            # Without it a retry may put a partition's records out of order.
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "message.max.bytes": MAX_DEAD_LETTER_BYTES + 65_536,
            "delivery.timeout.ms": int(settings.kafka.produce_timeout_s * 1000),
            "request.timeout.ms": int(settings.kafka.produce_timeout_s * 1000),
            "queue.buffering.max.kbytes": 131_072,
            "log_level": 0,
        }
        self._producer = Producer(security.librdkafka(settings.kafka, own))
        self._written: dict[str, dict[int, int]] = {}
        self._error: KafkaError | None = None
        self._gone = ""

    def send(self, outgoing: Iterable[Outgoing]) -> None:
        produce = self._producer.produce
        for one in outgoing:
            while True:
                try:
                    headers: Any = one.headers
                    produce(one.topic, value=one.value, key=one.key, headers=headers, on_delivery=self._delivered)
                    break
                except BufferError:
                    # The client has no room until the broker took some.
                    self._producer.poll(0.1)
                except KafkaException as error:
                    raise self._translated(error.args[0]) from None
        self._producer.poll(0)

    async def settle(self) -> Mapping[str, Mapping[int, int]]:
        while await asyncio.to_thread(self._producer.flush, FLUSH_S):
            pass
        if self._error is not None:
            error, self._error = self._error, None
            raise self._translated(error)
        if self._gone:
            raise ConfigurationError(f"{self._gone} was deleted while the run wrote to it; {AGAIN}")
        return {topic: dict(ends) for topic, ends in self._written.items()}

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._error = self._error or error
            return
        ends = self._written.setdefault(message.topic(), {})
        # Offsets only grow: a topic that begins anew was deleted, with what this process had written.
        self._gone = self._gone or (message.topic() if message.offset() < ends.get(message.partition(), 0) else "")
        ends[message.partition()] = max(ends.get(message.partition(), 0), message.offset() + 1)

    def _translated(self, error: KafkaError) -> Exception:
        if error.code() in _MISSING:
            return ConfigurationError(f"a topic of the run's lane is gone ({error.str()}); {AGAIN}")
        if error.code() in _FORBIDDEN:
            return ConfigurationError(f"the broker does not let this principal write ({error.str()})")
        if error.code() in _TOO_LARGE:
            # What a topic of ours can't take as it is declared was parted or ended before.
            return ConfigurationError(
                f"a topic takes smaller records than it is declared to ({error.str()}): bring its max.message.bytes in "
                "line (headrace topics apply), then resume"
            )
        return DependencyDownError("kafka", error.str())


class FakeSender:
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.down = False

    def send(self, outgoing: Iterable[Outgoing]) -> None:
        self.sent.extend(outgoing)

    async def settle(self) -> Mapping[str, Mapping[int, int]]:
        if self.down:
            raise DependencyDownError("kafka", "told to be down")
        ends: dict[str, dict[int, int]] = {}
        for one in self.sent:
            ends.setdefault(one.topic, {})[0] = ends.get(one.topic, {}).get(0, 0) + 1
        return ends
