"""Live requests before the complete stage, so many at a time, for as long as a test wants them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.records import Enrichment
from streams.outputs import key_of, topic_kind
from streams.reading import TopicReader
from streams.settings import Settings
from streams.topics import topic_name
from tests.support.enrichments import enrichment


class LiveLoad:
    """A client of a lane: a new request for every completion. ``sent`` and ``answered`` are request ids.

    ``took_s``: seconds from a request to its completion.
    """

    def __init__(self, settings: Settings, codec: Codec, lane: str, *, in_flight: int) -> None:
        self._settings, self._codec, self._lane, self._in_flight = settings, codec, lane, in_flight
        options = {"bootstrap.servers": settings.kafka.bootstrap, "partitioner": "murmur2_random", "log_level": 0}
        self._producer = Producer(options)
        self.sent: list[str] = []
        self.answered: set[str] = set()
        self.took_s: dict[str, float] = {}

    def send(self, name: str, count: int, *, asking: str = "What is it?") -> None:
        """So many requests, and their completions waited for."""
        self._run(name, lambda sent: sent >= count, asking)

    @contextmanager
    def going_on(self, name: str) -> Iterator[None]:
        """Requests until the end of the block, which waits for the last completions."""
        over, failed = threading.Event(), list[BaseException]()

        def run() -> None:
            try:
                self._run(name, lambda _: over.is_set())
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(120)
        assert not failed and not thread.is_alive(), failed

    def _run(self, name: str, enough: Callable[[int], bool], asking: str = "What is it?") -> None:
        topic, number, open_ = topic_name(self._settings.prefix, self._lane, "completions"), 0, dict[str, float]()
        with TopicReader(self._settings) as reader:
            reader.start({place: stretch.end for place, stretch in reader.ends(reader.places([topic])).items()})
            while open_ or not enough(number):
                while len(open_) < self._in_flight and not enough(number):
                    asked_at = time.monotonic()
                    open_[self._send(f"{self._lane}-{name}-{number}", asking)] = asked_at
                    number += 1
                for entry in reader.poll(0.05):
                    request_id = (entry.key or b"").decode()
                    if request_id in open_:
                        self.took_s[request_id] = time.monotonic() - open_.pop(request_id)
                    self.answered.add(request_id)

    def _send(self, request_id: str, asking: str) -> str:
        event = _fresh(enrichment(request_id, f"{request_id}: {asking}", lane=self._lane))
        topic = topic_name(self._settings.prefix, self._lane, topic_kind(event))
        headers = [("ce_id", event.meta.event_id.encode())]
        self._producer.produce(topic, key=key_of(event), value=self._codec.encode(event), headers=headers)
        assert self._producer.flush(30) == 0
        self.sent.append(request_id)
        return request_id


def _fresh(event: Enrichment) -> Enrichment:
    """Accepted just now, with an hour to live."""
    now = datetime.now(UTC)
    admission = replace(event.admission, expires_at=now + timedelta(hours=1))
    return replace(event, meta=replace(event.meta, accepted_at=now), admission=admission)
