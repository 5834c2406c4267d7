"""Loads an export into a lane: every record once, however often it is repeated, with its key, headers and event id."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from schemas.codec import Codec
from schemas.errors import DependencyDownError
from schemas.record import Record
from schemas.records import Control, Document
from streams import login, security
from streams.claims import DATAREF, BlockingClaims
from streams.exporting import prompts
from streams.exporting.erased import Erased, Removed
from streams.exporting.export import RECORDS
from streams.exporting.formats import PORTION, Row, read_rows
from streams.exporting.manifest import Manifest
from streams.headers import IMPORTED, header
from streams.imported import with_offset
from streams.outputs import LARGEST_BYTES, check_size
from streams.publish import FLUSH_TIMEOUT_S
from streams.reading import Place, Stretch, TopicReader, partition_for
from streams.settings import Settings
from streams.topics import MAX_EVENT_BYTES, apply, compare, topic_name

# Bytes of letters hold the record of another kind: they are looked at, not sent again.
NOT_LOADED = ("dead-letters",)
LEADERS_S = 30.0
LEADERS_PAUSE_S = 0.5

Advance = Callable[[int], None]


@dataclass(slots=True)
class Loaded:
    """What was done, in records."""

    loaded: int = 0
    # There from an earlier try.
    there: int = 0
    left_out: int = 0
    # Records that were erased, and documents that were removed, after they were exported.
    erased: int = 0
    prompts: int = 0


class Loader:
    """Loads once. Blocks on the broker, and on Postgres for prompts and for texts that are too large for a topic.

    ``erased`` is left out, and so is a document that was removed after it was exported.
    """

    def __init__(
        self, settings: Settings, codec: Codec, *, lane: str, advance: Advance, erased: Erased | None = None
    ) -> None:
        self._erased, self._removed = erased or Erased(), Removed()
        self._settings, self._codec, self._lane, self._advance = settings, codec, lane, advance
        self._claims = BlockingClaims(settings, codec)
        self._failure: str | None = None

    def run(self, folder: Path, manifest: Manifest, *, with_prompts: bool = True) -> Loaded:
        """Store the prompts, create the lane's topics and send what is not there yet, in the order of the files.

        Raises ``DependencyDownError`` for what was not acknowledged: run it again then. Raises ``ConfigurationError``
        for prompts that are others here; nothing is loaded then.
        """
        done = Loaded()
        if with_prompts:
            for part in manifest.parts:
                if part.kind == prompts.KIND:
                    done.prompts += prompts.load_prompts(self._settings, prompts.read_prompts(folder / part.path))
                    self._advance(part.records)
        kinds = [kind for kind in dict.fromkeys(part.kind for part in manifest.parts) if kind in RECORDS]
        apply(self._settings, self._lane, compare(self._settings, self._lane))
        login.check_login(self._settings.kafka)
        producer = Producer(security.librdkafka(self._settings.kafka, dict(_PRODUCER)))
        for kind in kinds:
            if kind in NOT_LOADED:
                done.left_out += manifest.records.get(kind, 0)
                continue
            self._kind(producer, folder, manifest, kind, done)
            self._flush(producer)
        return done

    def _kind(self, producer: Producer, folder: Path, manifest: Manifest, kind: str, done: Loaded) -> None:
        topic = topic_name(self._settings.prefix, self._lane, kind)
        count, there = self._there(topic, manifest.digest)
        if kind == "documents":
            documents = ((number, row[1]) for number, row in enumerate(_rows(folder, manifest, kind), 1))
            self._removed.learn(((n, one) for n, one in documents if isinstance(one, Document)), self._settings)
        for number, (place, record) in enumerate(_rows(folder, manifest, kind), 1):
            key = place["_key"]
            # Without a key a record goes anywhere: into the first, so that it is found again.
            partition = partition_for(key, count) if key is not None else 0
            if self._is_erased(number, place, record):
                done.erased += 1
            elif number <= there.get((topic, partition), 0):
                done.there += 1
            else:
                self._send(producer, topic, partition, place, record, f"{manifest.digest}/{number}")
                done.loaded += 1
            self._advance(1)
            if number % PORTION == 0:
                # A failure in the middle leaves no gap that a repetition would not see.
                self._flush(producer)

    def _is_erased(self, number: int, place: Mapping[str, Any], record: Record) -> bool:
        if self._erased.is_row(place):
            return True
        return isinstance(record, Document) and self._removed.covers(number, place, record)

    def _there(self, topic: str, digest: str) -> tuple[int, dict[Place, int]]:
        """How many partitions the topic has, and the last record of this export in each."""
        last: dict[Place, int] = {}
        with TopicReader(self._settings) as reader:
            places = reader.places([topic])
            for entry in reader.read(_ends(reader, places)):
                named = [(name, value) for name, value in entry.headers if value is not None]
                mark = (header(named, IMPORTED) or b"").decode("ascii", "replace")
                export, _, number = mark.partition("/")
                if export == digest and number.isdigit():
                    place = (entry.topic, entry.partition)
                    last[place] = max(last.get(place, 0), int(number))
        return len(places), last

    def _send(
        self, producer: Producer, topic: str, partition: int, place: Mapping[str, Any], record: Record, mark: str
    ) -> None:
        value, refs = self._claims.store(record, self._codec.encode(record), LARGEST_BYTES)
        check_size(value, type(record).__name__)
        headers = [(name, value) for name, value in place["_headers"] if name not in (DATAREF, IMPORTED)]
        headers += [(DATAREF, ref.encode()) for ref in refs[:1]]
        headers.append((IMPORTED, mark.encode()))
        if isinstance(record, Control):
            headers = with_offset(place, headers)
        while True:
            try:
                producer.produce(
                    topic,
                    value=value,
                    key=place["_key"],
                    partition=partition,
                    headers=headers,
                    on_delivery=self._report,
                )
                producer.poll(0)
                return
            except BufferError:
                producer.poll(0.1)
            except KafkaException as error:
                raise DependencyDownError("kafka", str(error)) from error

    def _report(self, error: KafkaError | None, _message: Any) -> None:
        if error is not None:
            self._failure = error.str()

    def _flush(self, producer: Producer) -> None:
        left = producer.flush(FLUSH_TIMEOUT_S)
        if left or self._failure:
            raise DependencyDownError("kafka", self._failure or f"{left} records are not acknowledged; import again")


def _rows(folder: Path, manifest: Manifest, kind: str) -> Iterator[Row]:
    """Every row of a kind, in order."""
    for part in manifest.parts:
        if part.kind == kind:
            yield from read_rows(manifest.format, RECORDS[kind], folder / part.path)


def _ends(reader: TopicReader, places: Sequence[Place]) -> dict[Place, Stretch]:
    """The partitions' ends. A topic that was created a moment ago has its leaders a moment later."""
    until = time.monotonic() + LEADERS_S
    while True:
        try:
            return reader.ends(places)
        except DependencyDownError:
            if time.monotonic() > until:
                raise
            time.sleep(LEADERS_PAUSE_S)


_PRODUCER: Mapping[str, Any] = {
    # In order within a partition, so that a repetition can go on behind the last one.
    "enable.idempotence": True,
    "log_level": 2,
    "linger.ms": 5,
    "message.max.bytes": MAX_EVENT_BYTES,
}
