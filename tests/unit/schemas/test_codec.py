"""The codec: frames in, typed records out, and a named error for everything else."""

from __future__ import annotations

import io
import json
import random
import tracemalloc
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

import fastavro
import pytest

from schemas.codec import Codec
from schemas.errors import (
    DependencyDownError,
    PoisonError,
    UndecodableError,
    UnencodableError,
    UnknownSchemaError,
    WrongRecordError,
)
from schemas.files import event_schemas
from schemas.record import Record, to_plain
from schemas.records import Alert, Answer, Cost, DeadLetter, Feedback, Request, Text
from schemas.registry import FakeSource, RegisteredSchema
from schemas.wire import header
from tests.unit.schemas.events import ANSWER, DELTA, META, REQUEST, SECRET

CODEC = Codec.offline()
IDS = {name: number for number, name in enumerate(event_schemas(), start=1)}


def _varint(number: int) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", number)
    return out.getvalue()


def test_a_frame_is_a_zero_byte_the_schema_id_and_the_body() -> None:
    codec = Codec({**IDS, "headrace.Request": 0x01020304})

    frame = codec.encode(REQUEST)

    assert frame[:5] == bytes([0, 1, 2, 3, 4])
    assert codec.decode(frame, Request) == REQUEST


def test_another_record_than_the_expected_one_is_named_with_the_expected_one() -> None:
    with pytest.raises(WrongRecordError, match=r"expected headrace\.Answer, got headrace\.Request") as caught:
        CODEC.decode(CODEC.encode(REQUEST), Answer)
    assert SECRET not in str(caught.value)


def test_an_id_that_is_not_known_is_asked_for_by_its_number() -> None:
    for call in (CODEC.record_name, CODEC.decode_any):
        with pytest.raises(UnknownSchemaError) as caught:
            call(header(77) + b"anything")
        assert caught.value.schema_id == 77


@pytest.mark.parametrize("frame", [b"", b"\x00", b"\x00\x00\x00\x00", b"\x01\x00\x00\x00\x01abc", b'{"query": 1}'])
def test_bytes_that_are_no_frame_are_undecodable(frame: bytes) -> None:
    with pytest.raises(UndecodableError, match="no Avro frame"):
        CODEC.decode(frame, Request)


@pytest.mark.parametrize("record", [REQUEST, DELTA, ANSWER], ids=lambda record: type(record).__name__)
def test_a_body_cut_off_anywhere_or_with_bytes_left_over_is_undecodable(record: Record) -> None:
    frame = CODEC.encode(record)
    for end in range(5, len(frame)):
        with pytest.raises(UndecodableError) as caught:
            CODEC.decode(frame[:end], type(record))
        assert SECRET not in str(caught.value)
    with pytest.raises(UndecodableError, match="1 bytes are left over"):
        CODEC.decode(frame + b"\x00", type(record))


@pytest.mark.parametrize("length", [2**31, 2**40, 2**62, 2**63 - 1, -1, -(2**31), -(2**63)])
@pytest.mark.parametrize("where", ["string", "array", "map", "bytes"])
def test_a_hostile_length_takes_no_memory(where: str, length: int) -> None:
    alert, letter = CODEC.encode(Alert(meta=META, kind="k")), CODEC.encode(DeadLetter(meta=META))
    feedback = CODEC.encode(Feedback(meta=META))
    before = {
        "string": (Alert, alert[: alert.index(b"\x02k")]),
        # The last fields are: key and value (null), headers (empty); and: labels, metadata (empty).
        "bytes": (DeadLetter, letter[:-3] + b"\x02"),
        "array": (Feedback, feedback[:-2]),
        "map": (Feedback, feedback[:-1]),
    }
    kind, start = before[where]
    frame = start + _varint(length) + b"\x02a\x02b"
    tracemalloc.start()
    try:
        with pytest.raises(UndecodableError):
            CODEC.decode(frame, kind)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_no_damaged_frame_gets_past_the_poison_errors() -> None:
    seeded = random.Random(20260101)
    frames = [(CODEC.encode(record), type(record)) for record in (REQUEST, DELTA, ANSWER)]
    refused = 0
    for _ in range(3000):
        frame, kind = seeded.choice(frames)
        damaged = bytearray(frame)
        at = seeded.randrange(5, len(damaged))
        damaged[at : at + seeded.randrange(3)] = seeded.randbytes(seeded.randrange(12))
        try:
            CODEC.decode(bytes(damaged), kind)
        except PoisonError as error:
            refused += 1
            assert SECRET not in str(error)
            assert error.__suppress_context__ or error.__context__ is None
    assert refused > 1000


@pytest.mark.parametrize(
    "record",
    [
        replace(REQUEST, query=Text(inline="\ud800 half a surrogate pair")),
        replace(REQUEST, ttl_ms=2**63),
        replace(REQUEST, ttl_ms="soon"),  # type: ignore[arg-type]
        replace(REQUEST, query="not a Text"),  # type: ignore[arg-type]
        replace(REQUEST, meta=replace(META, accepted_at=datetime(2026, 1, 1))),
        Cost(meta=META, attempt_id="a", state="done", amount_usd=Decimal("NaN")),
        Cost(meta=META, attempt_id="a", state="done", amount_usd=Decimal(10) ** 26),
    ],
    ids=["surrogate", "long", "text for number", "string for record", "time without zone", "no number", "39 digits"],
)
def test_a_value_that_its_schema_does_not_take_is_refused_without_quoting_it(record: Record) -> None:
    with pytest.raises(UnencodableError, match="does not fit its schema") as caught:
        CODEC.encode(record)
    assert SECRET not in str(caught.value)


def test_an_amount_finer_than_the_scale_is_rounded_half_to_even() -> None:
    cost = Cost(meta=META, attempt_id="a", state="done", amount_usd=Decimal("0.0000000000025"))

    assert CODEC.decode(CODEC.encode(cost), Cost).amount_usd == Decimal("0.000000000002")


def test_a_writer_schema_without_logical_types_still_gives_amounts_and_times() -> None:
    plain = json.loads(event_schemas()["headrace.Answer"], object_hook=_without_logical_types)
    plain["fields"].append({"name": "extra", "type": "int", "default": 0})
    codec = Codec(IDS, known=[RegisteredSchema(99, json.dumps(plain))])
    frame = CODEC.encode(ANSWER)

    assert codec.decode(header(99) + frame[5:] + b"\x00", Answer) == ANSWER


def test_an_amount_written_with_another_scale_keeps_its_worth() -> None:
    coarse = event_schemas()["headrace.Cost"].replace('"scale": 12', '"scale": 6')
    codec = Codec(IDS, known=[RegisteredSchema(99, coarse)])
    cost = Cost(meta=META, attempt_id="a", state="done", amount_usd=Decimal("1.25"))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, json.loads(coarse), {**to_plain(cost), "amount_usd": Decimal("1.25")})

    assert codec.decode(header(99) + out.getvalue(), Cost) == cost


def _without_logical_types(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key not in ("logicalType", "precision", "scale")}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"type": "array", "items": "null"}, "an array of nothing"),
        ({"type": "array", "items": {"type": "record", "name": "Void", "fields": []}}, "an array of nothing"),
        (
            {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]},
            "headrace.Node holds itself",
        ),
    ],
    ids=["array of null", "array of empty records", "record in itself"],
)
async def test_a_writer_schema_that_lets_a_short_frame_fell_a_worker_is_not_read(kind: Any, reason: str) -> None:
    grown = json.loads(event_schemas()["headrace.Alert"])
    grown["fields"].append({"name": "bomb", "type": kind})
    codec = Codec(IDS, source=FakeSource({99: json.dumps(grown)}))

    with pytest.raises(UndecodableError, match=reason):
        await codec.fetch(99)
    # And one that is known at the start keeps nobody from starting.
    with pytest.raises(UnknownSchemaError):
        Codec(IDS, known=[RegisteredSchema(99, json.dumps(grown))]).record_name(header(99))


async def test_a_writer_schema_that_multiplies_is_not_read() -> None:
    inner: Any = "string"
    for depth in range(20):
        first = {"name": "a", "type": {"type": "record", "name": f"R{depth}", "fields": [{"name": "v", "type": inner}]}}
        second = {"name": "b", "type": f"R{depth}"}
        inner = {"type": "record", "name": f"D{depth}", "fields": [first, second]}
    grown = json.loads(event_schemas()["headrace.Alert"])
    grown["fields"].append({"name": "bomb", "type": inner})

    with pytest.raises(UndecodableError, match="more than 20000 values"):
        await Codec(IDS, source=FakeSource({99: json.dumps(grown)})).fetch(99)


async def test_a_fetched_schema_decodes_from_then_on_and_is_asked_for_once() -> None:
    source = FakeSource({99: event_schemas()["headrace.Request"]})
    codec = Codec(IDS, source=source)
    frame = header(99) + CODEC.encode(REQUEST)[5:]
    with pytest.raises(UnknownSchemaError):
        codec.decode(frame, Request)

    await codec.fetch(99)
    await codec.fetch(99)

    assert codec.decode(frame, Request) == REQUEST
    assert source.asked == [99]


async def test_a_registry_that_is_away_is_told_from_one_that_denies_the_id() -> None:
    source = FakeSource()
    codec = Codec(IDS, source=source)
    with pytest.raises(UnknownSchemaError):
        await codec.fetch(99)
    source.away = True
    with pytest.raises(DependencyDownError):
        await codec.fetch(99)
    with pytest.raises(UnknownSchemaError):
        await CODEC.fetch(99)


@pytest.mark.parametrize(
    "schema", ["not JSON", '{"type": "record"}', '{"type": "record", "name": "X", "fields": 1}', "7"]
)
async def test_what_is_no_schema_is_not_read(schema: str) -> None:
    with pytest.raises(UndecodableError, match="no valid Avro schema"):
        await Codec(IDS, source=FakeSource({99: schema})).fetch(99)


def test_a_record_of_others_is_named_and_refused() -> None:
    foreign = '{"type": "record", "name": "Order", "namespace": "shop", "fields": []}'
    codec = Codec(IDS, known=[RegisteredSchema(99, foreign)])

    assert codec.record_name(header(99)) == "shop.Order"
    with pytest.raises(WrongRecordError, match=r"shop\.Order .* is no record of Headrace"):
        codec.decode_any(header(99))
    with pytest.raises(WrongRecordError, match=r"got shop\.Order"):
        codec.decode(header(99), Request)
