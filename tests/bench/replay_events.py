"""Recorded events for the benchmark of replays: a topic filled quickly with events that are encoded only once.

A few hundred completions are made of this project's own documentation, each with a question, three passages, an answer
that cites them, the call's attempt, and the headers that the stage before would write. Every event on the topic is one
of them with ids of its own, so that filling a topic costs a few microseconds an event, and no two have the same id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from itertools import islice
from pathlib import Path

from confluent_kafka import Producer

from processors.claimcheck import MARK
from schemas.codec import Codec
from schemas.record import Record
from schemas.records import (
    Admission,
    Attempt,
    Completion,
    ContentPart,
    Cost,
    Grounding,
    Message,
    Meta,
    Passage,
    Request,
    Text,
    Usage,
)
from streams.headers import event_headers
from streams.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
TEMPLATES = 300
# Stands for an event's number, in as many digits.
NUMBER = "@" * 12
_CONTACT = " For more, write to support{0}@example.com or call +1 212 555 01{0:02d}."

Headers = list[tuple[str, bytes]]


def fill(settings: Settings, topic: str, codec: Codec, made: Sequence[Record], count: int) -> None:
    """Put so many events on a topic; returns when the broker has them all."""
    templates = [_cut(codec, record) for record in made]
    options = {
        "bootstrap.servers": settings.kafka.bootstrap,
        "partitioner": "murmur2_random",
        "linger.ms": 20,
        "batch.size": 1_000_000,
        "queue.buffering.max.kbytes": 262_144,
        "log_level": 2,
    }
    producer = Producer(options)
    for number in range(count):
        digits = b"%012d" % number
        pieces, headers = templates[number % len(templates)]
        own = [(name, digits.join(parts)) for name, parts in headers]
        while True:
            try:
                producer.produce(topic, key=b"bench-" + digits, value=digits.join(pieces), headers=own)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1_000 == 0:
            producer.poll(0)
    assert producer.flush(300) == 0, f"the broker did not take all of {count} events"


def completions(lane: str) -> list[Completion]:
    """Different completions, as the complete stage writes them."""
    texts = list(islice(paragraphs(), TEMPLATES + 3))
    return [_completion(lane, number, texts[number : number + 3]) for number in range(len(texts) - 3)]


def costs(lane: str) -> list[Cost]:
    """A cost event, as the complete stage writes it."""
    made = Cost(
        meta=replace(_meta(lane, "c"), stage="complete"),
        attempt_id=f"00000000-0000-5000-b000-{NUMBER}",
        purpose="completion",
        route="default",
        deployment="d1",
        provider="p1",
        model="m1",
        state="done",
        usage=Usage(prompt_tokens=640, completion_tokens=120),
        amount_usd=Decimal("0.000168"),
        price_source="settings",
        response_id=f"chatcmpl-{NUMBER}",
        feature="docs",
        tier="pro",
        incurred_at=datetime.now(UTC) - timedelta(hours=1),
    )
    return [made]


def paragraphs() -> Iterator[str]:
    """Texts of 200 to 600 characters, over and over."""
    found = [
        text
        for path in sorted(DOCS.glob("*.md"))
        # No answer to a question is as full of figures.
        if path.name != "benchmarks.md"
        for text in (" ".join(part.split()) for part in re.split(r"\n\s*\n", path.read_text("utf-8")))
        if 200 <= len(text) <= 600 and not text.startswith("|") and MARK.decode() not in text
    ]
    assert found, f"no text in {DOCS}"
    while True:
        yield from found


def _completion(lane: str, number: int, texts: Sequence[str]) -> Completion:
    asked = Text(inline=f"What does the documentation say about this, in number {NUMBER}: {texts[0][:60]}?")
    passages = tuple(
        Passage(
            passage_id=f"p{number}-{place}",
            document_id=f"d{number}",
            namespace="docs",
            number=place,
            title="Documentation",
            uri=f"https://docs.example.com/{number}",
            digest=sha256(text.encode()).hexdigest(),
            score=0.8 - place / 20,
            text=Text(inline=text),
        )
        for place, text in enumerate(texts, start=1)
    )
    # One in ten has something to mask.
    contact = _CONTACT.format(number % 100) if number % 10 == 0 else ""
    usage = Usage(prompt_tokens=640, completion_tokens=120)
    meta = _meta(lane, "8")
    attempt = Attempt(
        attempt_id=f"00000000-0000-5000-b000-{NUMBER}",
        purpose="completion",
        deployment="d1",
        provider="p1",
        model="m1",
        response_id=f"chatcmpl-{NUMBER}",
        state="done",
        http_status=200,
        started_at=datetime.now(UTC) - timedelta(hours=1),
        duration_ms=812.5,
        usage=usage,
        cost_usd=Decimal("0.000168"),
    )
    return Completion(
        meta=replace(meta, stage="complete", causation_id=f"00000000-0000-5000-a000-{NUMBER}"),
        request=Request(meta=_meta(lane, "9"), query=asked, feature="docs", user="u1"),
        admission=Admission(route="default", tier="pro", expires_at=datetime.now(UTC) - timedelta(minutes=55)),
        grounding=Grounding(
            question=asked,
            messages=(Message(role="user", content=(ContentPart(type="text", text=asked),)),),
            passages=passages,
            prompt_version="answer@1",
        ),
        text=Text(inline=f"{texts[0]} [1]{contact}"),
        finish_reason="stop",
        model="m1",
        provider="p1",
        deployment="d1",
        response_id=f"chatcmpl-{NUMBER}",
        usage=usage,
        cost_usd=Decimal("0.000168"),
        attempts=(attempt,),
    )


def _meta(lane: str, kind: str) -> Meta:
    return Meta(
        event_id=f"00000000-0000-5000-{kind}000-{NUMBER}",
        request_id=f"bench-{NUMBER}",
        tenant="acme",
        lane=lane,
        stage="producer",
        stage_version="1",
        accepted_at=datetime.now(UTC) - timedelta(hours=1),
    )


def _cut(codec: Codec, record: Record) -> tuple[list[bytes], list[tuple[str, list[bytes]]]]:
    """A record's bytes and headers, cut where its number goes."""
    cut: Callable[[bytes], list[bytes]] = lambda value: value.split(NUMBER.encode())  # noqa: E731
    meta: Meta = record.meta  # type: ignore[attr-defined]
    headers = event_headers(record, meta, time=datetime.now(UTC), cause=(), timings=())
    return cut(codec.encode(record)), [(name, cut(value)) for name, value in headers]
