"""Bad bytes, bad requests, bad providers and repeated events, through the whole stream on the real broker."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from schemas.records import Answer, ContentPart, Cost, Meta, Request, Retrieval, Text
from schemas.records import Message as ChatMessage
from tests.faults.evidence import provider_calls, read_topics
from tests.faults.pipeline import Pipeline, Scene, scene
from tests.faults.traffic import Publisher
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

# Two workers of every stage but index: the second pair joins the first one's groups.
GROUPS = (("admit", "enrich", "filter"), ("complete",))
FAULTY = {
    # What the provider does each time, and the class and status that the request ends with.
    "500": "transient-provider",
    "429": "transient-provider",
    "disconnect_stream": "unknown",
    "html": "transient-provider",
    "garbage": "transient-provider",
    # Slower than the deadline for the first token.
    "hang": "unknown",
}
# Longer than this machine may stand still: nobody else takes up a call that goes on.
HELD = {"lease_s": 30.0}
SHORT = {"fake": {"first_token_timeout_s": 4.0, "total_timeout_s": 8.0}}


@dataclass
class Stream:
    """A running lane, and what a test needs to talk to it."""

    place: Scene
    pipeline: Pipeline
    producer: Producer = field(init=False)

    def __post_init__(self) -> None:
        self.producer = Producer(
            {"bootstrap.servers": self.place.settings.kafka.bootstrap, "partitioner": "murmur2_random"}
        )

    def topic(self, kind: str) -> str:
        return f"{self.place.lane}.{kind}"

    def publish(self, kind: str, value: bytes | None, key: str, copies: int = 1) -> None:
        for _ in range(copies):
            self.producer.produce(self.topic(kind), value=value, key=key.encode())
        assert self.producer.flush(20) == 0

    def ask(self, request: Request, copies: int = 1) -> str:
        self.publish("requests", self.place.codec.encode(request), request.meta.request_id, copies)
        return request.meta.request_id

    def request(self, name: str, **changes: object) -> Request:
        place = self.place
        request_id = f"{place.lane}-{name}"
        meta = Meta(event_id=request_id, request_id=request_id, tenant=place.tenant, lane=place.lane, stage="producer")
        # No passages: what is asked here is how the stream behaves.
        values: dict[str, object] = {"query": Text(inline="How?"), "retrieval": Retrieval(enabled=False)}
        return Request(meta=meta, **{**values, **changes})  # type: ignore[arg-type]

    def answers(self, *request_ids: str) -> dict[str, list[tuple[Answer, bytes]]]:
        """Every copy of these requests' answers, once there is one of each."""
        found: dict[str, list[tuple[Answer, bytes]]] = {}

        def complete() -> bool:
            found.clear()
            for seen in read_topics(self.place, ["answers"])["answers"]:
                if seen.key in request_ids:
                    copies = found.setdefault(seen.key, [])
                    copies.append((self.place.codec.decode(seen.value, Answer), seen.value))
            return len(found) == len(request_ids)

        eventually(complete, f"answers to {len(request_ids)} requests", timeout_s=150)
        return found

    def answer(self, request_id: str) -> Answer:
        return self.answers(request_id)[request_id][0][0]

    def dead_letters(self, keys: set[bytes]) -> dict[bytes, Message]:
        """The dead letters with these keys, once all are there."""
        consumer = Consumer({"bootstrap.servers": self.place.settings.kafka.bootstrap, "group.id": "unused"})
        consumer.assign([TopicPartition(self.topic("dead-letters"), 0, 0)])
        found: dict[bytes, Message] = {}

        def complete() -> bool:
            for message in consumer.consume(100, timeout=0.2):
                if message.error() is None and message.key() in keys:
                    found[message.key()] = message
            return set(found) == keys

        try:
            eventually(complete, f"dead letters {sorted(keys)}", timeout_s=150)
        finally:
            consumer.close()
        return found


@pytest.fixture(scope="module")
def stream(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    folder: Path = tmp_path_factory.mktemp("bad")
    lane = f"t{secrets.token_hex(4)}"
    with (
        scene(stack, folder, lane, worker=HELD, deployments=SHORT, apart=[f"fault-{one}" for one in FAULTY]) as place,
        Pipeline(place, GROUPS) as first,
        Pipeline(place, GROUPS, slot="w1"),
    ):
        Publisher(place).push_prompt()
        yield Stream(place, first)


def header(message: Message, name: str) -> str:
    return next(value.decode() for key, value in message.headers() or [] if key == name)


def test_bytes_that_are_no_request_are_dead_letters_and_the_stage_goes_on(stream: Stream) -> None:
    codec = stream.place.codec
    cost = Cost(meta=stream.request("x").meta, attempt_id="a", state="done", amount_usd=Decimal(1))
    bad: dict[bytes, tuple[bytes | None, str]] = {
        b"no-avro": (b'{"query": "json"}', "UndecodableError"),
        b"empty": (b"", "UndecodableError"),
        b"null": (None, "UndecodableError"),
        b"cut": (codec.encode(stream.request("cut"))[:-4], "UndecodableError"),
        b"another": (codec.encode(cost), "WrongRecordError"),
        b"unknown-id": (b"\x00" + struct.pack(">I", 987_654) + b"abc", "UnknownSchemaError"),
    }
    for key, (value, _) in bad.items():
        stream.publish("requests", value, key.decode())
    good = [stream.ask(stream.request(f"good-{number}")) for number in range(8)]
    assert all(copies[0][0].status == "answered" for copies in stream.answers(*good).values())
    letters = stream.dead_letters(set(bad))
    for key, (value, error) in bad.items():
        assert letters[key].value() == value, "the original bytes"
        assert header(letters[key], "__connect.errors.exception.class.name") == error
        assert header(letters[key], "__connect.errors.topic") == stream.topic("requests")
        assert header(letters[key], "headrace.error.class") == "poison"


@pytest.mark.parametrize(
    ("name", "changes", "where"),
    [
        ("long", {"query": Text(inline="x" * 10_001)}, "query"),
        ("none", {"query": None}, "query"),
        ("control", {"query": Text(inline="a\x07b")}, "query"),
        ("user", {"user": "ada\n"}, "user"),
        ("route", {"route": "nowhere"}, "route"),
        ("ttl", {"ttl_ms": 0}, "ttl_ms"),
        (
            "image",
            {"query": None, "messages": (ChatMessage(role="user", content=(ContentPart(type="image_url", url="u"),)),)},
            "messages",
        ),
    ],
)
def test_a_request_that_breaks_a_rule_is_rejected_and_told_the_field(
    stream: Stream, name: str, changes: dict[str, object], where: str
) -> None:
    answer = stream.answer(stream.ask(stream.request(f"rule-{name}", **changes)))
    assert answer.status == "rejected" and answer.failure is not None
    assert (answer.failure.field or "").startswith(where) and where in answer.failure.message
    assert answer.failure.code and not answer.attempts


@pytest.mark.parametrize(
    "request_id", ["", "a\x00b", "a\nb", secrets.token_hex(2500)], ids=["empty", "nul", "line", "long"]
)
def test_a_request_id_that_nobody_can_be_answered_under_is_a_dead_letter(stream: Stream, request_id: str) -> None:
    asked = stream.request("x")
    asked = replace(asked, meta=replace(asked.meta, request_id=request_id))
    key = f"bad-id-{len(request_id)}-{request_id[:3]!r}"
    stream.publish("requests", stream.place.codec.encode(asked), key)
    letter = stream.dead_letters({key.encode()})[key.encode()]
    assert letter.value() == stream.place.codec.encode(asked)
    assert stream.answer(stream.ask(stream.request(f"after-{key.encode().hex()}"))).status == "answered"


@pytest.mark.parametrize(("fault", "error_class"), FAULTY.items())
def test_a_provider_that_always_fails_ends_in_a_failed_answer_of_its_class(
    stream: Stream, fault: str, error_class: str
) -> None:
    asked = stream.request(f"fault-{fault}", query=Text(inline=f"How? [[fault:{fault}]]"), route=f"fault-{fault}")
    answer = stream.answer(stream.ask(asked))
    assert answer.status == "failed" and answer.failure is not None
    assert answer.failure.error_class == error_class
    assert answer.attempts, "every attempt is told"
    assert "[[fault" not in answer.failure.message


def test_a_provider_that_recovers_is_answered_with_every_attempt_booked(stream: Stream) -> None:
    asked = stream.request("recovers", query=Text(inline="How? [[fault:500,429:1,ok]]"))
    answer = stream.answer(stream.ask(asked))
    assert answer.status == "answered"
    assert [attempt.state for attempt in answer.attempts] == ["failed", "failed", "done"]


def test_the_same_request_a_hundred_times_on_two_workers_is_one_answer_and_one_paid_call(stream: Stream) -> None:
    request_id = stream.ask(stream.request("hundred", query=Text(inline="How? [[fault:slow:0.5]]")), copies=100)

    def drained() -> bool:
        topics = read_topics(stream.place, ["admitted", "answers"])
        return all(sum(seen.key == request_id for seen in topics[kind]) >= 100 for kind in topics)

    eventually(drained, "a hundred deliveries through every stage", timeout_s=120)
    copies = stream.answers(request_id)[request_id]
    assert len({value for _, value in copies}) == 1, "the same bytes"
    assert len({answer.meta.event_id for answer, _ in copies}) == 1
    paid = [call for call in provider_calls(stream.place.provider.log) if call.request_id == request_id and call.paid]
    assert len(paid) == 1


def test_a_completion_redelivered_on_another_partition_is_the_same_answer(stream: Stream) -> None:
    request_id = stream.ask(stream.request("redelivered"))
    stream.answer(request_id)
    for kind in ("enrichments.normal", "completions"):
        (seen,) = [s for s in read_topics(stream.place, [kind])[kind] if s.key == request_id][:1]
        for partition in range(4):
            stream.producer.produce(stream.topic(kind), value=seen.value, key=request_id.encode(), partition=partition)
    assert stream.producer.flush(20) == 0
    eventually(
        lambda: sum(s.key == request_id for s in read_topics(stream.place, ["answers"])["answers"]) >= 9,
        "an answer for each delivery",
        timeout_s=150,
    )
    assert len({value for _, value in stream.answers(request_id)[request_id]}) == 1
    assert stream.place.provider.paid()[request_id] == 1


def test_a_compressed_record_over_the_limit_is_a_dead_letter_without_its_bytes(stream: Stream) -> None:
    value = b"x" * 1_800_000
    squeezing = Producer(
        {
            "bootstrap.servers": stream.place.settings.kafka.bootstrap,
            "compression.type": "gzip",
            # Counted before it is compressed; the broker counts what arrives.
            "message.max.bytes": 4_000_000,
        }
    )
    squeezing.produce(stream.topic("requests"), value=value, key=b"squeezed")
    assert squeezing.flush(20) == 0
    letter = stream.dead_letters({b"squeezed"})[b"squeezed"]
    assert letter.value() is None
    assert header(letter, "headrace.error.value_bytes") == str(len(value))
    assert stream.answer(stream.ask(stream.request("after-squeezed"))).status == "answered"


def test_a_record_without_key_and_value_holds_up_nothing(stream: Stream) -> None:
    for partition in range(4):
        stream.producer.produce(stream.topic("requests"), value=None, key=None, partition=partition)
    assert stream.producer.flush(20) == 0
    asked = [stream.ask(stream.request(f"after-nothing-{number}")) for number in range(8)]
    assert all(copies[0][0].status == "answered" for copies in stream.answers(*asked).values())


def test_a_request_near_the_size_limit_is_refused_and_no_partition_is_stuck(stream: Stream) -> None:
    part = ContentPart(type="text", text=Text(inline="x" * 9_000))
    large = stream.request("large", query=None, messages=(ChatMessage(role="user", content=(part,) * 100),))
    assert len(stream.place.codec.encode(large)) > 900_000
    answer = stream.answer(stream.ask(large))
    assert answer.status == "rejected" and answer.failure is not None and answer.failure.field
    after = [stream.ask(stream.request(f"after-{number}")) for number in range(8)]
    assert all(copies[0][0].status == "answered" for copies in stream.answers(*after).values())
