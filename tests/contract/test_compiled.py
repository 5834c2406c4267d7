"""What is written and read by functions made for each type is what fastavro writes and reads."""

from __future__ import annotations

import io
import json
import random
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.compiled import Compiled, compiled
from schemas.files import event_schemas
from schemas.record import Record, from_plain, to_plain
from schemas.records import EVENTS
from tests.contract.strategies import record_of
from tests.unit.schemas.events import ANSWER, DELTA, REQUEST

SCHEMAS = {name: fastavro.parse_schema(json.loads(text), {}) for name, text in event_schemas().items()}
every_event = pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
some = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


def functions_of(kind: type[Record]) -> Compiled:
    found = compiled(SCHEMAS[kind.AVRO_NAME])
    assert found is not None
    return found


def written(record: Record) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, SCHEMAS[record.AVRO_NAME], to_plain(record))
    return out.getvalue()


def read(body: bytes, kind: type[Record]) -> Record | None:
    """The record by fastavro; ``None`` for a body that it does not take, or not all of."""
    stream = io.BytesIO(body)
    try:
        plain: Any = fastavro.schemaless_reader(stream, SCHEMAS[kind.AVRO_NAME], None)
        record = from_plain(kind, plain)
    except Exception:
        return None
    return record if stream.tell() == len(body) else None


@every_event
@given(data=st.data())
@some
def test_every_event_s_bytes_are_fastavro_s_and_are_read_back(kind: type[Record], data: st.DataObject) -> None:
    record, functions = data.draw(record_of(kind.AVRO_NAME)), functions_of(kind)
    out = bytearray(b"head")

    functions.write(record, out)

    assert bytes(out) == b"head" + written(record)
    assert functions.read(bytes(out), 4) == (record, len(out))


def test_what_is_read_from_damaged_bytes_is_what_fastavro_reads() -> None:
    seeded, both = random.Random(20260202), 0
    for record in (REQUEST, DELTA, ANSWER):
        kind, body, functions = type(record), written(record), functions_of(type(record))
        for _ in range(1_500):
            damaged = bytearray(body)
            at = seeded.randrange(len(damaged))
            damaged[at : at + seeded.randrange(3)] = seeded.randbytes(seeded.randrange(4))
            try:
                found, end = functions.read(bytes(damaged), 0)
            except Exception:
                # Left to fastavro, which may take it.
                continue
            expected = read(bytes(damaged), kind)
            assert (repr(found) if end == len(damaged) else None) == (repr(expected) if expected else None)
            both += expected is not None
    assert both > 100


def test_a_schema_with_a_type_that_has_no_function_is_left_to_fastavro() -> None:
    schema = json.loads(event_schemas()["headrace.Alert"])
    for kind in ("float", {"type": "array", "items": {"type": "array", "items": "int"}}, ["string", "null"]):
        fields = [{**field, "type": kind} if field["name"] == "kind" else field for field in schema["fields"]]
        assert compiled({**schema, "fields": fields}) is None


@pytest.mark.parametrize("record", [REQUEST, DELTA, ANSWER], ids=lambda record: type(record).__name__)
def test_the_codec_uses_them_and_needs_them_for_nothing(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, slow = Codec.offline(), Codec.offline()
    with monkeypatch.context() as patched:
        patched.setattr("schemas.codec.compiled", lambda schema: None)
        frame = slow.encode(record)
        assert slow.decode(frame, type(record)) == record
    with monkeypatch.context() as patched:
        patched.setattr("schemas.codec.schemaless_writer", None)
        patched.setattr("schemas.codec.schemaless_reader", None)
        assert quick.encode(record) == frame
        assert quick.decode(frame, type(record)) == record
