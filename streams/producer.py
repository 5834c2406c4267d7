"""The worker's producer: sends bytes and waits until the broker has acknowledged them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordTooLargeError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from schemas.errors import ConfigurationError, DependencyDownError, OversizedError
from streams import login, security
from streams.headers import Headers
from streams.settings import KafkaSettings
from streams.topics import MAX_DEAD_LETTER_BYTES

DEPENDENCY = "kafka"
# Bytes of a batch, where records wait for others.
MOST_BATCHED = 262_144
AUTHORIZATION = "authorization"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to be sent."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers


class Producer:
    """One connection for all stages of a process. A key lands where Java's client would put it (murmur2)."""

    def __init__(self, settings: KafkaSettings, *, linger_s: float = 0.0) -> None:
        """``linger_s``: how long a record waits for others to go with it."""
        self._settings, self._linger_s = settings, linger_s
        self._producer: AIOKafkaProducer | None = None
        # When the broker last refused a record of this principal's, by the monotonic clock.
        self.refused_at = 0.0

    async def start(self) -> None:
        """Connect. Raises ``DependencyDownError`` when the broker is away, ``ConfigurationError`` when it
        refuses the credentials."""
        producer = AIOKafkaProducer(
            **security.aiokafka(self._settings),
            acks="all",
            linger_ms=int(self._linger_s * 1000),
            max_batch_size=MOST_BATCHED if self._linger_s else 16_384,
            request_timeout_ms=int(self._settings.produce_timeout_s * 1000),
            max_request_size=MAX_DEAD_LETTER_BYTES + 65_536,
            # A killed broker comes back on the same address within seconds.
            retry_backoff_ms=200,
            metadata_max_age_ms=60_000,
        )
        try:
            await producer.start()
        except (KafkaError, OSError) as error:
            await producer.stop()
            # The client says no more than that it could not connect.
            refused = await login.refusal(self._settings)
            raise refused or DependencyDownError(DEPENDENCY, type(error).__name__) from error
        except BaseException:
            # A provider of tokens that refuses, or a worker that is told to stop.
            await producer.stop()
            raise
        self._producer = producer

    async def stop(self) -> None:
        """Flush and disconnect."""
        if self._producer is not None:
            await self._producer.stop()

    async def ping(self) -> None:
        """Ask the broker for its metadata. Raises ``DependencyDownError`` when it does not answer."""
        try:
            await self._running().client.fetch_all_metadata()
        except (KafkaError, OSError) as error:
            refused = await login.refusal(self._settings)
            raise DependencyDownError(DEPENDENCY, str(refused or type(error).__name__)) from error

    async def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Send all, in order within a partition, and wait for every acknowledgement.

        Raises ``DependencyDownError`` when the broker is away, with some perhaps written: send the same bytes again.
        It names ``authorization`` where the broker refuses this client's principal.
        ``OversizedError`` when one is over its topic's limit; ``ConfigurationError`` when a topic is missing or
        forbidden, which no waiting mends.
        """
        producer = self._running()
        try:
            futures = [await producer.send(o.topic, value=o.value, key=o.key, headers=o.headers) for o in outgoing]
            results = await asyncio.gather(*futures, return_exceptions=True)
        except KafkaError as error:
            raise self._translated(error, outgoing) from error
        for one, result in zip(outgoing, results, strict=True):
            if isinstance(result, KafkaError):
                raise self._translated(result, [one]) from result
            if isinstance(result, BaseException):
                raise result

    async def post(self, outgoing: Sequence[Outgoing]) -> list[asyncio.Future[Any]]:
        """Hand all over, in order within a partition, without waiting for the broker.

        Each future ends with its record's acknowledgement, or with the client's own error. Blocks while the client has
        no room for more.
        """
        producer, futures = self._running(), []
        for one in outgoing:
            try:
                future = await producer.send(one.topic, value=one.value, key=one.key, headers=one.headers)
            except KafkaError as error:
                future = asyncio.get_running_loop().create_future()
                future.set_exception(error)
            futures.append(future)
        return futures

    def _translated(self, error: KafkaError, outgoing: Sequence[Outgoing]) -> Exception:
        """A principal that may not write waits until it may; without one it is a fault of the settings."""
        forbidden = TopicAuthorizationFailedError | ClusterAuthorizationFailedError
        if isinstance(error, forbidden) and security.secured(self._settings):
            self.refused_at = time.monotonic()
            topics = ", ".join(sorted({o.topic for o in outgoing}))
            return DependencyDownError(AUTHORIZATION, f"WRITE of topic {topics} is not granted")
        return _translated(error, outgoing)

    def _running(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise DependencyDownError(DEPENDENCY, "the producer was not started")
        return self._producer


class FakeProducer(Producer):
    """Keeps what was sent. ``failures`` are raised first, one a send."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.failures: list[Exception] = []
        # So many of the records that are posted next are not acknowledged.
        self.lost = 0
        self.refused_at = 0.0

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def ping(self) -> None:
        return None

    async def send(self, outgoing: Sequence[Outgoing]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.sent += outgoing

    async def post(self, outgoing: Sequence[Outgoing]) -> list[asyncio.Future[Any]]:
        futures = []
        for one in outgoing:
            futures.append(asyncio.get_running_loop().create_future())
            if self.lost > 0:
                self.lost -= 1
                futures[-1].set_exception(RequestTimedOutError())
                continue
            self.sent.append(one)
            futures[-1].set_result(None)
        return futures


def _translated(error: KafkaError, outgoing: Sequence[Outgoing]) -> Exception:
    topics = ", ".join(sorted({o.topic for o in outgoing}))
    if isinstance(error, MessageSizeTooLargeError | RecordTooLargeError):
        largest = max(len(o.value or b"") for o in outgoing)
        return OversizedError(f"an event of {largest} bytes is over the limit of its topic ({topics})")
    fatal = (
        InvalidTopicError,
        UnknownTopicOrPartitionError,
        TopicAuthorizationFailedError,
        ClusterAuthorizationFailedError,
    )
    if isinstance(error, fatal):
        return ConfigurationError(f"{topics}: {type(error).__name__}; run `headrace topics apply` and check the ACLs")
    return DependencyDownError(DEPENDENCY, type(error).__name__)
