"""What the verifier goes by: topics, tables and the provider's call log, read from outside with plain clients."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from psycopg.rows import class_row

from schemas.codec import Codec
from tests.faults.pipeline import Kill, Scene
from tests.faults.traffic import Planned

KINDS = (
    "requests",
    "admitted",
    "enrichments.high",
    "enrichments.normal",
    "enrichments.low",
    "deltas",
    "completions",
    "answers",
    "costs",
    "dead-letters",
)
# Consumer groups and what they read.
GROUPS = {
    "admit": "requests",
    "enrich": "admitted",
    "complete.high": "enrichments.high",
    "complete.normal": "enrichments.normal",
    "complete.low": "enrichments.low",
    "filter": "completions",
    "index": "documents",
}
TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A record as it lies in a topic."""

    kind: str
    partition: int
    offset: int
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class ProviderCall:
    """A call as the provider logged it. ``ended`` is None for one that never ended."""

    number: int
    request_id: str
    attempt_id: str
    paid: bool
    began: float
    ended: float | None
    outcome: str | None


@dataclass(frozen=True, slots=True)
class FinalRow:
    """A row of ``finals``."""

    request_id: str
    revision: int
    event_id: str
    status: str
    answer: bytes


@dataclass(frozen=True, slots=True)
class CallRow:
    """A row of ``calls``."""

    call_id: str
    request_id: str
    state: str
    input: bytes
    result: bytes | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """A row of ``attempts``."""

    attempt_id: str
    call_id: str
    request_id: str
    state: str
    error_code: str | None
    started_at: datetime
    ended_at: datetime | None
    cost_usd: Decimal | None
    upper_bound_usd: Decimal
    upper_bound: bool
    late_at: datetime | None
    duplicate: bool


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A row of ``ledger``."""

    attempt_id: str
    request_id: str
    state: str
    amount_usd: Decimal
    conflicts: int


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A row of ``documents`` with the passages that carry its digest, and all of its passages."""

    document_id: str
    digest: str
    passage_count: int
    current: int
    passages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All of a run that can be seen from outside."""

    codec: Codec
    planned: Mapping[str, Planned]
    accepted: Mapping[str, int]
    documents: Mapping[str, str]
    topics: Mapping[str, Sequence[Seen]]
    finals: Sequence[FinalRow]
    calls: Sequence[CallRow]
    attempts: Sequence[AttemptRow]
    indexed: Sequence[DocumentRow]
    provider: Sequence[ProviderCall]
    ledger: Sequence[LedgerRow] = ()
    # Whether a worker kept the books.
    accounted: bool = False
    kills: Sequence[Kill] = ()
    died: Sequence[tuple[str, int]] = ()
    counters: Mapping[str, float] = field(default_factory=dict)
    # Events that a group has not committed, by group.
    uncommitted: Mapping[str, int] = field(default_factory=dict)


def collect(
    scene: Scene,
    planned: Sequence[Planned],
    accepted: Mapping[str, int],
    *,
    documents: Mapping[str, str] | None = None,
    **rest: Any,
) -> Evidence:
    """Read everything. Blocks on the broker and Postgres; ``rest`` are fields of ``Evidence``."""
    where = (scene.lane, scene.tenant)
    with psycopg.connect(scene.dsn) as connection:
        finals = _rows(connection, FinalRow, _FINALS, where)
        calls = _rows(connection, CallRow, _CALLS, where)
        attempts = _rows(connection, AttemptRow, _ATTEMPTS, where)
        indexed = _rows(connection, DocumentRow, _DOCUMENTS, (scene.tenant,))
        ledger = _rows(connection, LedgerRow, _LEDGER, where)
    return Evidence(
        codec=scene.codec,
        planned={one.request_id: one for one in planned},
        accepted=dict(accepted),
        documents=dict(documents or {}),
        topics=read_topics(scene),
        finals=finals,
        calls=calls,
        attempts=attempts,
        indexed=indexed,
        ledger=ledger,
        provider=[
            call
            for call in provider_calls(scene.provider.log)
            if not scene.shares_provider or call.request_id.startswith(scene.lane)
        ],
        **rest,
    )


def read_topics(scene: Scene, kinds: Sequence[str] = KINDS) -> dict[str, list[Seen]]:
    """Every record of these topics, from the first offset to the present end."""
    found: dict[str, list[Seen]] = {kind: [] for kind in kinds}
    consumer = _consumer(scene, "verifier")
    try:
        left: dict[tuple[str, int], int] = {}
        for topic, partition in _places(consumer, scene, kinds):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_S)
            if high > low:
                left[topic, partition] = high
        consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in left])
        heard = time.monotonic()
        while left:
            # A batch waits until it is full or the time is over.
            batch = consumer.consume(5000, timeout=0.05)
            if batch:
                heard = time.monotonic()
            elif time.monotonic() - heard > TIMEOUT_S:
                raise TimeoutError(f"{sorted(left)} could not be read to the end within {TIMEOUT_S:g} s")
            for message in batch:
                if message.error() is not None:
                    raise KafkaException(message.error())
                topic, partition, offset = message.topic(), message.partition(), message.offset()
                kind = topic.removeprefix(f"{scene.lane}.")
                key = (message.key() or b"").decode("utf-8", "replace")
                if offset < left.get((topic, partition), 0):
                    found[kind].append(Seen(kind, partition, offset, key, message.value() or b""))
                if offset >= left.get((topic, partition), offset + 2) - 1:
                    del left[topic, partition]
    finally:
        consumer.close()
    return found


def uncommitted(scene: Scene, groups: Mapping[str, str] = GROUPS) -> dict[str, int]:
    """How many events each group has not committed; without those that have committed all."""
    open_: dict[str, int] = {}
    for group, kind in groups.items():
        consumer = _consumer(scene, f"{scene.lane}.{group}")
        try:
            places = [TopicPartition(*place) for place in _places(consumer, scene, (kind,))]
            for place in consumer.committed(places, timeout=TIMEOUT_S):
                _, high = consumer.get_watermark_offsets(
                    TopicPartition(place.topic, place.partition), timeout=TIMEOUT_S
                )
                open_[group] = open_.get(group, 0) + high - max(0, place.offset)
        finally:
            consumer.close()
    return {group: count for group, count in open_.items() if count}


def provider_calls(log: Path) -> list[ProviderCall]:
    """The provider's call log."""
    begun: dict[int, dict[str, Any]] = {}
    ended: dict[int, dict[str, Any]] = {}
    for line in log.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            entry = json.loads(line)
            (begun if entry["event"] == "begin" else ended)[entry["call"]] = entry
    return [
        ProviderCall(
            number=number,
            request_id=entry["request_id"],
            attempt_id=entry["attempt_id"],
            paid=entry["paid"],
            began=entry["time"],
            ended=ended[number]["time"] if number in ended else None,
            outcome=ended[number]["outcome"] if number in ended else None,
        )
        for number, entry in begun.items()
        if entry["kind"] == "chat"
    ]


def _consumer(scene: Scene, group: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": scene.settings.kafka.bootstrap,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )


def _places(consumer: Consumer, scene: Scene, kinds: Sequence[str]) -> list[tuple[str, int]]:
    topics = consumer.list_topics(timeout=TIMEOUT_S).topics
    names = [f"{scene.lane}.{kind}" for kind in kinds]
    return [(name, partition) for name in names for partition in topics[name].partitions]


def _rows(connection: psycopg.Connection[Any], kind: type[Any], query: str, parameters: tuple[str, ...]) -> list[Any]:
    with connection.cursor(row_factory=class_row(kind)) as cursor:
        return cursor.execute(query.encode(), parameters).fetchall()


_FINALS = "SELECT request_id, revision, event_id, status, answer FROM finals WHERE lane = %s AND tenant = %s"
_CALLS = "SELECT call_id::text, request_id, state, input, result FROM calls WHERE lane = %s AND tenant = %s"
_ATTEMPTS = """
SELECT attempt_id::text, call_id::text, request_id, attempts.state, error_code, started_at, ended_at, cost_usd,
    upper_bound_usd, upper_bound, late_at, duplicate
FROM attempts JOIN calls USING (call_id) WHERE lane = %s AND tenant = %s ORDER BY attempts.ordinal
"""
_LEDGER = "SELECT attempt_id, request_id, state, amount_usd, conflicts FROM ledger WHERE lane = %s AND tenant = %s"
_DOCUMENTS = """
SELECT document_id, digest, passage_count,
    (SELECT count(*)::int FROM passages p WHERE (p.tenant, p.namespace, p.document_id)
        = (d.tenant, d.namespace, d.document_id) AND p.document_digest = d.digest) AS current,
    (SELECT count(*)::int FROM passages p WHERE (p.tenant, p.namespace, p.document_id)
        = (d.tenant, d.namespace, d.document_id)) AS passages
FROM documents d WHERE tenant = %s
"""
