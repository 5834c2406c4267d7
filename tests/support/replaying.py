"""Recorded events for replays, and what a run left in its lane."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import Producer

from schemas.codec import Codec
from schemas.ids import derive_id
from schemas.record import Record
from schemas.records import (
    Admission,
    Completion,
    ContentPart,
    Grounding,
    Message,
    Meta,
    Passage,
    Request,
    Text,
    Usage,
)
from streams.outputs import key_of, topic_kind
from streams.reading import Entry, TopicReader
from streams.settings import Settings
from streams.topics import topic_name

TEXT = "A decorator takes a function and gives another one [1]. Write to jo@example.com for more."
PASSAGE = "A decorator is a callable that takes a function and returns another function. " * 5


def completion(number: int, lane: str, *, tenant: str = "acme", **fields: Any) -> Completion:
    """A completion as the complete stage writes it, long past its time to live."""
    request_id = f"{lane}-r{number}"
    meta = Meta(
        event_id=derive_id("completion", lane, number),
        request_id=request_id,
        tenant=tenant,
        lane=lane,
        causation_id=derive_id("enrichment", lane, number),
        stage="complete",
        stage_version="1",
        accepted_at=datetime.now(UTC) - timedelta(hours=1),
    )
    question = Text(inline=f"What is decorator number {number}?")
    request = Request(meta=replace(meta, event_id=derive_id("request", lane, number)), query=question, feature="docs")
    passages = tuple(
        Passage(
            passage_id=f"p{n}",
            document_id=f"d{n}",
            namespace="docs",
            number=n,
            digest="ab" * 32,
            score=0.8,
            text=Text(inline=PASSAGE),
        )
        for n in (1, 2, 3)
    )
    user = Message(role="user", content=(ContentPart(type="text", text=question),))
    values: dict[str, Any] = {
        "text": Text(inline=TEXT),
        "finish_reason": "stop",
        "model": "m1",
        "provider": "p1",
        "deployment": "d1",
        "usage": Usage(prompt_tokens=100, completion_tokens=20),
    }
    return Completion(
        meta=meta,
        request=request,
        admission=Admission(route="default", expires_at=datetime.now(UTC) - timedelta(minutes=55)),
        grounding=Grounding(messages=(user,), question=question, passages=passages, prompt_version="answer@1"),
        **{**values, **fields},
    )


def record(settings: Settings, codec: Codec, lane: str, events: Iterable[Record]) -> None:
    """Write events to their topics of a lane."""
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap, "partitioner": "murmur2_random"})
    for event in events:
        topic = topic_name(settings.prefix, lane, topic_kind(event))
        while True:
            try:
                event_id = event.meta.event_id  # type: ignore[attr-defined]
                headers = [("ce_id", event_id)]
                producer.produce(topic, key=key_of(event), value=codec.encode(event), headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    assert producer.flush(60) == 0


def entries(settings: Settings, lane: str, kind: str) -> list[Entry]:
    """Every record of a topic."""
    topic = topic_name(settings.prefix, lane, kind)
    with TopicReader(settings) as reader:
        return list(reader.read(reader.ends(reader.places(list(reader.existing([topic]))))))
