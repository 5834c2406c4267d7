"""Every record comes back as it was written, whatever values its schema takes, and under older and newer schemas."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.codec import Codec
from schemas.compat import version_findings
from schemas.files import event_schemas
from schemas.house import records
from schemas.record import Record, to_plain
from schemas.records import EVENTS
from schemas.registry import RegisteredSchema
from schemas.wire import header
from tests.contract.strategies import record_of

OTHER_ID = 4_000_000_000
EXTRA = [
    {"name": "added_text", "type": ["null", "string"], "doc": "added", "default": None},
    {"name": "added_map", "type": {"type": "map", "values": "string"}, "doc": "added", "default": {}},
    {"name": "added_number", "type": "long", "doc": "added", "default": 7},
]
every_event = pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
some = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
IDS = {name: number for number, name in enumerate(event_schemas(), start=1)}
CODEC = Codec(IDS)


def _write(schema: Any, record: Record) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), to_plain(record))
    return header(OTHER_ID) + out.getvalue()


def _changed(kind: type[Record], change: Callable[[Any], None]) -> Any:
    schema = json.loads(event_schemas()[kind.AVRO_NAME])
    for record in list(records(schema)):
        change(record)
    return schema


def _as_default(record: Any) -> Any:
    """The record as one that was written before any optional field existed."""
    required = {}
    for field in fields(record):
        if field.default is MISSING and field.default_factory is MISSING:
            value = getattr(record, field.name)
            required[field.name] = _as_default(value) if is_dataclass(value) else value
    return type(record)(**required)


@every_event
@given(data=st.data())
@some
def test_every_record_comes_back_as_it_was_written(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(record_of(kind.AVRO_NAME))

    frame = CODEC.encode(record)

    assert CODEC.decode(frame, kind) == record
    assert CODEC.decode_any(frame) == record
    assert CODEC.record_name(frame) == kind.AVRO_NAME
    assert CODEC.encode(CODEC.decode(frame, kind)) == frame


@every_event
@given(data=st.data())
@some
def test_a_record_of_a_newer_writer_is_read_without_what_it_added(kind: type[Record], data: st.DataObject) -> None:
    def grow(record: Any) -> None:
        record["fields"] += EXTRA

    newer = _changed(kind, grow)
    record = data.draw(record_of(kind.AVRO_NAME))
    codec = Codec(IDS, known=[RegisteredSchema(OTHER_ID, json.dumps(newer))])

    assert codec.decode(_write(newer, record), kind) == record


@every_event
@given(data=st.data())
@some
def test_a_record_of_an_older_writer_gets_the_defaults_of_what_it_lacks(
    kind: type[Record], data: st.DataObject
) -> None:
    """The oldest writer thinkable: one that knew the required fields alone."""

    def shrink(record: Any) -> None:
        record["fields"] = [field for field in record["fields"] if "default" not in field]

    older = _named_once(_changed(kind, shrink))
    record = _as_default(data.draw(record_of(kind.AVRO_NAME)))
    codec = Codec(IDS, known=[RegisteredSchema(OTHER_ID, json.dumps(older))])

    found = codec.decode(_write(older, record), kind)

    assert found == record
    assert codec.encode(found) == codec.encode(record)


def _named_once(schema: Any) -> Any:
    """Spell out a record where it is first used: dropping fields may have dropped its definition."""
    today = json.loads(event_schemas()[f"headrace.{schema['name']}"])
    shrunk = {}
    for record in records(today):
        kept = [field for field in record["fields"] if "default" not in field]
        shrunk.setdefault(record["name"], {**record, "fields": kept})
    seen: set[str] = set()

    def spell(kind: Any) -> Any:
        if isinstance(kind, list):
            return [spell(branch) for branch in kind]
        if isinstance(kind, dict) and kind["type"] != "record":
            return {key: spell(value) if key in ("items", "values") else value for key, value in kind.items()}
        name = kind if isinstance(kind, str) else kind["name"]
        if name not in shrunk or name in seen:
            return name
        seen.add(name)
        record = shrunk[name]
        return {**record, "fields": [{**field, "type": spell(field["type"])} for field in record["fields"]]}

    return spell(schema)


@every_event
def test_an_added_optional_field_is_compatible_both_ways_and_an_added_required_one_is_not(kind: type[Record]) -> None:
    def grow(record: Any) -> None:
        record["fields"] += EXTRA

    def demand(record: Any) -> None:
        record["fields"].append({"name": "demanded", "type": "string", "doc": "added"})

    name = kind.AVRO_NAME
    old = {name: event_schemas()[name]}

    assert not list(version_findings({name: json.dumps(_changed(kind, grow))}, old, "1.0.0"))
    broken = list(version_findings({name: json.dumps(_changed(kind, demand))}, old, "1.0.0"))
    assert {finding.rule for finding in broken} == {"reader_field_missing_default_value"}
    assert {finding.field for finding in broken} == {"demanded"}


def test_two_records_of_an_older_writer_share_no_map() -> None:
    kind = next(kind for kind in EVENTS if kind.__name__ == "Request")
    older = _named_once(_changed(kind, lambda record: None))
    codec = Codec(IDS, known=[RegisteredSchema(OTHER_ID, json.dumps(older))])
    meta = {"event_id": "e", "request_id": "r", "tenant": "t", "lane": "live"}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(older), {"meta": meta})
    first, second = (codec.decode(header(OTHER_ID) + out.getvalue(), kind) for _ in range(2))

    assert first.metadata == second.metadata == {}  # type: ignore[attr-defined]
    assert first.metadata is not second.metadata  # type: ignore[attr-defined]
