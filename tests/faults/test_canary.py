"""A canary in prompt, document, completion, feedback and the provider's errors is where it belongs and nowhere else.

The word goes through every stage and every way of failing that is known. It may be in events' values, which hold it
on purpose, and must not be in a log, a metric, an event's header, a dead letter's header or an error's text.
"""

from __future__ import annotations

import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.json_view import to_json
from schemas.records import Alert, Answer, ContentPart, Cost, Document, Feedback, Meta, Request, Retrieval, Text
from schemas.records import Message as ChatMessage
from schemas.records import ResponseFormat as Format
from streams.stages import STAGES
from streams.topics import KINDS
from tests.faults.evidence import Seen, read_topics
from tests.faults.pipeline import MODEL, Pipeline, Scene, scene
from tests.faults.traffic import Publisher
from tests.provider.process import ProviderProcess
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

# The fake provider's error bodies hold this word too.
CANARY = "CANARY"
FAULTS = ("500", "400", "401", "429", "html", "garbage", "context", "error_event", "truncated", "length", "empty_text")
# Columns that hold what was sent and got, on purpose.
CONTENT = {
    "calls": {"input", "result"},
    "finals": {"answer"},
    "deferred": {"value", "headers"},
    "feedback": {"comment", "correction", "value", "record"},
    "evaluations": {"value", "record"},
    "documents": {"title", "body", "document_id", "metadata", "source"},
    "passages": {"text", "title", "heading", "document_id", "metadata", "embedding", "search"},
    "superseded_passages": {"text", "title", "document_id", "metadata", "embedding"},
}


@dataclass
class Told:
    """What a run told, beside the events' values."""

    place: Scene
    logs: dict[str, str] = field(default_factory=dict)
    headers: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    keys: dict[str, list[bytes]] = field(default_factory=dict)
    topics: dict[str, list[Seen]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def told(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("canary")
    provider = ProviderProcess(folder / "provider.jsonl")
    lane = f"c{secrets.token_hex(4)}"
    changes = _changes(provider, f"faults-{lane}")
    with _running(provider), scene(stack, folder, lane, shared=provider, **changes) as place:
        run = _Run(place)
        with Pipeline(place, (tuple(STAGES),)) as pipeline:
            Publisher(place).push_prompt()
            run.document()
            asked = run.requests()
            run.poison()
            run.wait(asked)
            run.feedback(asked[0])
            run.wait_feedback()
            page = f"http://127.0.0.1:{pipeline.worker('admit').port}/"
            pages = {name: _get(page + name) for name in ("metrics", "livez", "readyz")}
            assert set(pipeline.stop().values()) == {0}
            logs = {path.name: path.read_text(errors="replace") for path in folder.rglob("*.log")}
        logs |= {f"{path.parent.name}/{path.name}": path.read_text(errors="replace") for path in _logs(stack.folder)}
        keys, headers = _headers(place)
        yield Told(place, {**logs, **pages}, headers, keys, read_topics(place, KINDS))


def test_the_canary_went_through_every_stage(told: Told) -> None:
    for kind in ("requests", "admitted", "completions", "deltas", "chunks", "answers", "feedback", "dead-letters"):
        assert any(CANARY.encode() in seen.value for seen in told.topics[kind]), kind
    codec = told.place.codec
    statuses = {codec.decode(seen.value, Answer).status for seen in told.topics["answers"]}
    assert statuses >= {"answered", "failed", "rejected"}
    assert told.topics["evaluations"]
    with psycopg.connect(told.place.dsn) as connection:
        found = connection.execute(
            "SELECT count(*) FROM passages WHERE tenant = %s AND text LIKE %s", (told.place.tenant, f"%{CANARY}%")
        ).fetchone()
    assert found is not None
    assert found[0] > 0


def test_no_log_and_no_page_of_a_worker_tells_it(told: Told) -> None:
    assert any("worker is ready" in text for text in told.logs.values())
    assert "headrace_events_total" in told.logs["metrics"]
    assert {name: _around(text) for name, text in told.logs.items() if CANARY in text} == {}


def test_no_header_and_no_key_of_any_event_tells_it(told: Told) -> None:
    assert told.headers["dead-letters"], "no dead letter was written"
    for kind, headers in told.headers.items():
        assert [name for name, value in headers if CANARY.encode() in value] == [], kind
    for kind, keys in told.keys.items():
        assert [key for key in keys if CANARY.encode() in key] == [], kind


def test_no_error_text_tells_it(told: Told) -> None:
    codec = told.place.codec
    for seen in told.topics["answers"]:
        answer = codec.decode(seen.value, Answer)
        told_of = [answer.failure, *answer.attempts, *(replace(v, spans=()) for v in answer.verdicts)]
        assert CANARY not in repr(told_of), seen.key
    for kind, record in (("costs", Cost), ("alerts", Alert)):
        for seen in (one for one in told.topics[kind] if not one.key.startswith("poison")):
            assert CANARY not in repr(to_json(codec.decode(seen.value, record)))


def test_no_column_but_those_for_content_holds_it(told: Told) -> None:
    """The journal's error codes, the ledger, workers' reports, states of dead letters."""
    with psycopg.connect(told.place.dsn) as connection:
        tables = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        for (table,) in tables.fetchall():
            columns = connection.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s",
                (table,),
            ).fetchall()
            for (column,) in columns:
                if column in CONTENT.get(table, ()):
                    continue
                query = f'SELECT count(*) FROM "{table}" WHERE position(%s IN "{column}"::text) > 0'
                hits = connection.execute(query.encode(), (CANARY,)).fetchone()
                assert hits == (0,), f"{table}.{column}"


def _changes(provider: ProviderProcess, prompt: str) -> dict[str, Any]:
    """Every fault has a deployment and a route of its own: what one does to its keys and breaker holds up no other."""
    times = {"first_token_timeout_s": 4.0, "total_timeout_s": 8.0}
    own = {"base_url": provider.base_url, "model": MODEL, "max_concurrency": 2, **times}
    names = [f"fault-{fault}" for fault in FAULTS]
    return {
        "deployments": {"fake": times, **dict.fromkeys(names, own)},
        "routes": {name: {"deployment": name, "prompt": prompt, "minimum_score": -1} for name in names},
        "evaluate": {"rate": 1},
    }


@contextmanager
def _running(provider: ProviderProcess) -> Iterator[None]:
    try:
        yield
    finally:
        provider.stop()


class _Run:
    """Publishes everything that holds the canary."""

    def __init__(self, place: Scene) -> None:
        self._place = place
        self._producer = Producer(
            {"bootstrap.servers": place.settings.kafka.bootstrap, "partitioner": "murmur2_random"}
        )

    def document(self) -> None:
        """A document about the canary."""
        meta = self._meta("")
        body = Text(inline=f"The {CANARY} sings at dawn. A {CANARY} eats seeds and needs a clean cage every week.")
        record = Document(meta=meta, document_id="birds", namespace="default", title=f"The {CANARY}", body=body)
        self._send("documents", "birds", self._place.codec.encode(record))
        eventually(self._indexed, "the document's passages", timeout_s=120)

    def requests(self) -> list[str]:
        """Answered, streamed, rejected and failed ones. The completion repeats its marker."""
        prompt = f"What does the {CANARY} eat? [[marker:{CANARY}-1]]"
        parts = (ContentPart(type="image_url", url=f"http://127.0.0.1/{CANARY}"),)
        wanted: dict[str, dict[str, Any]] = {
            "plain": {"query": Text(inline=prompt)},
            "streamed": {"query": Text(inline=f"{prompt} [[words:60]]"), "stream": True},
            "user": {"query": Text(inline=prompt), "user": f"{CANARY}\n"},
            "long": {"query": Text(inline=f"{CANARY} " * 2_000)},
            "parts": {"query": None, "messages": (ChatMessage(role="user", content=parts),)},
            "schema": {
                "query": Text(inline=prompt),
                "response_format": Format(type="json_schema", schema_json=Text(inline=f'{{"const": "{CANARY}-none"}}')),
            },
            **{
                f"fault-{fault}": {"query": Text(inline=f"{prompt} [[fault:{fault}]]"), "route": f"fault-{fault}"}
                for fault in FAULTS
            },
            "broken": {"query": Text(inline=f"{prompt} [[words:40]] [[fault:break_at:90,ok]]"), "stream": True},
        }
        asked = []
        for name, values in wanted.items():
            request_id = f"{self._place.lane}-{name}"
            record = Request(meta=self._meta(request_id), **{"retrieval": Retrieval(k=2), **values})
            self._send("requests", request_id, self._place.codec.encode(record))
            asked.append(request_id)
        return asked

    def poison(self) -> None:
        """Bytes that no stage can read."""
        for kind in ("requests", "completions", "deltas", "costs", "documents", "feedback"):
            self._send(kind, f"poison-{kind}", f'{{"text": "{CANARY}"}}'.encode())

    def feedback(self, request_id: str) -> None:
        """What a user thought."""
        record = Feedback(meta=self._meta(request_id), rating=2, comment=Text(inline=f"My {CANARY} eats more."))
        wrong = replace(record, rating=77)
        for one in (record, wrong):
            self._send("feedback", request_id, self._place.codec.encode(one))

    def wait(self, asked: list[str]) -> None:
        """Until every request has its answer and every poison its dead letter."""
        eventually(lambda: {s.key for s in self._read("answers")} >= set(asked), "every answer", timeout_s=150)
        eventually(lambda: len(self._read("dead-letters")) >= 6, "the dead letters", timeout_s=150)

    def wait_feedback(self) -> None:
        """Until the wrong one is a dead letter."""
        eventually(lambda: len(self._read("dead-letters")) >= 7, "the wrong feedback's dead letter", timeout_s=150)

    def _read(self, kind: str) -> list[Seen]:
        return read_topics(self._place, (kind,))[kind]

    def _indexed(self) -> bool:
        with psycopg.connect(self._place.dsn) as connection:
            row = connection.execute("SELECT count(*) FROM passages WHERE tenant = %s", (self._place.tenant,))
            return row.fetchone() != (0,)

    def _meta(self, request_id: str) -> Meta:
        event_id = f"{request_id}-{secrets.token_hex(4)}"
        place = self._place
        return Meta(event_id=event_id, request_id=request_id, tenant=place.tenant, lane=place.lane, stage="producer")

    def _send(self, kind: str, key: str, value: bytes) -> None:
        self._producer.produce(f"{self._place.lane}.{kind}", value=value, key=key.encode())
        assert self._producer.flush(20) == 0


def _headers(place: Scene) -> tuple[dict[str, list[bytes]], dict[str, list[tuple[str, bytes]]]]:
    """Every key and every header of every event of the lane, by kind."""
    consumer = Consumer({"bootstrap.servers": place.settings.kafka.bootstrap, "group.id": f"{place.lane}-headers"})
    keys: dict[str, list[bytes]] = {kind: [] for kind in KINDS}
    headers: dict[str, list[tuple[str, bytes]]] = {kind: [] for kind in KINDS}
    try:
        known = consumer.list_topics(timeout=30).topics
        for kind in KINDS:
            topic = f"{place.lane}.{kind}"
            for partition in known[topic].partitions:
                at = TopicPartition(topic, partition, 0)
                _, high = consumer.get_watermark_offsets(at, timeout=30)
                consumer.assign([at])
                read = 0
                while read < high:
                    for message in consumer.consume(500, timeout=1):
                        assert message.error() is None
                        read = message.offset() + 1
                        keys[kind].append(message.key() or b"")
                        headers[kind] += [(name, value or b"") for name, value in message.headers() or []]
    finally:
        consumer.close()
    return keys, headers


def _logs(folder: Path) -> list[Path]:
    """What broker, registry, database and embedding server wrote."""
    return [path for path in (folder / "logs").rglob("*") if path.is_file()]


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return str(reply.read().decode())
    except urllib.error.HTTPError as error:
        # Not ready, for once: its reasons must not tell it either.
        return str(error.read().decode())


def _around(text: str) -> str:
    at = text.index(CANARY)
    return text[max(0, at - 300) : at + 100]
