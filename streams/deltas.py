"""Sends live deltas: each with its acknowledgement, in the order of its request, past the runner's own outputs."""

from __future__ import annotations

from processors.clock import Clock
from schemas.codec import Codec
from schemas.records import Delta
from streams.headers import event_headers
from streams.outputs import KINDS, check_size, key_of
from streams.producer import Outgoing, Producer
from streams.topics import topic_name


class ProducerDeltas:
    """A ``DeltaSink`` on the worker's producer."""

    def __init__(self, producer: Producer, codec: Codec, clock: Clock, *, prefix: str, lane: str) -> None:
        self._producer, self._codec, self._clock = producer, codec, clock
        self._topic = topic_name(prefix, lane, KINDS[Delta])

    async def send(self, delta: Delta) -> None:
        value = self._codec.encode(delta)
        check_size(value, type(delta).__name__)
        headers = event_headers(delta, delta.meta, time=self._clock.now(), cause=(), timings=())
        await self._producer.send([Outgoing(self._topic, key_of(delta).encode(), value, headers)])
