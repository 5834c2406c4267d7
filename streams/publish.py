"""Publishing from outside a stage: the command line's producer, and what a request needs to become an event."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Producer as KafkaProducer

from schemas.codec import Codec
from schemas.errors import DependencyDownError, OversizedError
from schemas.ids import derive_id
from schemas.record import Record
from schemas.records import Control, Meta
from streams import login, security
from streams.claims import DATAREF, BlockingClaims
from streams.headers import event_headers
from streams.outputs import LARGEST_BYTES, check_size, key_of, topic_kind
from streams.settings import Settings
from streams.topics import MAX_EVENT_BYTES, producer_topic

FLUSH_TIMEOUT_S = 30.0

Delivered = Callable[[Record, str | None], None]


@dataclass(frozen=True, slots=True)
class Undelivered:
    """A record that the broker did not acknowledge."""

    record: Record
    reason: str


class Publisher:
    """A blocking producer over librdkafka. Delivery is reported by ``flush``, in no particular order."""

    def __init__(self, settings: Settings, codec: Codec, *, lane: str = "live") -> None:
        self._settings, self._lane, self._codec = settings, lane, codec
        self._claims = BlockingClaims(settings, codec)
        self._failures: list[Undelivered] = []
        login.check_login(settings.kafka)
        self._producer = KafkaProducer(
            security.librdkafka(
                settings.kafka,
                {
                    # Where Java's client would put a key.
                    "partitioner": "murmur2_random",
                    # Without it a fresh topic's records were seen out of order.
                    "enable.idempotence": True,
                    # What goes wrong is reported by `flush`; the client's own lines would come many times a second.
                    "log_level": 2,
                    "linger.ms": 5,
                    "message.max.bytes": MAX_EVENT_BYTES,
                    "message.timeout.ms": int(settings.kafka.produce_timeout_s * 1000),
                },
            )
        )

    def publish(self, kind: str, record: Record, key: str, *, delivered: Delivered | None = None) -> None:
        """Send one record. Blocks while the local queue is full, and on Postgres for one that is too large for a topic.

        Such a record goes with references to its largest texts, which are stored first. A tenant's request goes to the
        tenant's own topic, where it has one. Raises ``OversizedError`` for a record that its topic would not take even
        so, and ``ConfigurationError`` for a tenant without a topic; nothing is sent then.
        """
        value, refs = self._claims.store(record, self._codec.encode(record), LARGEST_BYTES)
        check_size(value, type(record).__name__)
        meta: Meta = record.meta  # type: ignore[attr-defined]
        headers: list[tuple[str, Any]] = list(event_headers(record, meta, time=datetime.now(UTC), cause=(), timings=()))
        headers += [(DATAREF, ref.encode()) for ref in refs[:1]]

        def report(error: KafkaError | None, _message: Any) -> None:
            reason = error.str() if error else None
            if reason is not None:
                self._failures.append(Undelivered(record, reason))
            if delivered is not None:
                delivered(record, reason)

        topic = producer_topic(self._settings, self._lane, kind, meta.tenant)
        while True:
            try:
                self._producer.produce(topic, value=value, key=key.encode(), headers=headers, on_delivery=report)
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                if error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    raise OversizedError(f"{type(record).__name__} is {len(value)} bytes: shorten it") from error
                raise DependencyDownError("kafka", str(error)) from error

    def send(self, record: Record) -> None:
        """Send one record to the topic of its kind."""
        self.publish(topic_kind(record), record, key_of(record))

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> list[Undelivered]:
        """Wait for the broker's acknowledgements. What was not acknowledged is returned, with the reason."""
        left = self._producer.flush(timeout_s)
        failures, self._failures = self._failures, []
        if left:
            raise DependencyDownError("kafka", f"{left} events are not acknowledged after {timeout_s:g} s")
        return failures


def producer_meta(*, tenant: str, lane: str, request_id: str, cause: str) -> Meta:
    """The meta of an event from outside; the same ``cause`` gives the same event id."""
    return Meta(
        event_id=derive_id(tenant, lane, "", "producer", cause),
        request_id=request_id,
        tenant=tenant,
        lane=lane,
        stage="producer",
    )


async def publish_control(settings: Settings, record: Control, *, lane: str = "live") -> None:
    """Publish a control record and wait for the broker. Raises ``DependencyDownError`` when it is away."""
    codec = await security.codec(settings.registry)
    publisher = Publisher(settings, codec, lane=lane)
    if not record.meta.event_id:
        meta = producer_meta(tenant="", lane=lane, request_id="", cause=str(uuid.uuid4()))
        record = replace(record, meta=meta)
    publisher.send(record)
    failures = publisher.flush()
    if failures:
        raise DependencyDownError("kafka", failures[0].reason)
