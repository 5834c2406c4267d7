"""Hypothesis strategies for every record, derived from the schemas."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Any

from hypothesis import strategies as st

import schemas.records as kinds
from schemas.files import event_schemas
from schemas.house import records
from schemas.record import Record

_WIDE = Context(prec=60)
_PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text(max_size=12),
    "bytes": st.binary(max_size=12),
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "double": st.floats(allow_nan=False),
}
_MONEY = st.integers(1 - 10**38, 10**38 - 1).map(lambda units: Decimal(units).scaleb(-12, _WIDE))
_TIMES = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))


def record_of(name: str) -> st.SearchStrategy[Record]:
    """Records of an event (``headrace.Answer``) with any value that its schema takes."""
    schema = json.loads(event_schemas()[name])
    defined = {record["name"]: record for record in records(schema)}
    return _record(schema["name"], defined)


def _record(name: str, defined: dict[str, Any]) -> st.SearchStrategy[Record]:
    values = {field["name"]: _value(field["type"], defined) for field in defined[name]["fields"]}
    return st.builds(getattr(kinds, name), **values)


def _value(kind: Any, defined: dict[str, Any]) -> st.SearchStrategy[Any]:
    match kind:
        case str() if kind in _PRIMITIVES:
            return _PRIMITIVES[kind]
        case str():
            return _record(kind, defined)
        case ["null", other]:
            return st.none() | _value(other, defined)
        case {"logicalType": "decimal"}:
            return _MONEY
        case {"logicalType": "timestamp-micros"}:
            return _TIMES
        case {"type": "array", "items": items}:
            return st.lists(_value(items, defined), max_size=2).map(tuple)
        case {"type": "map", "values": values}:
            return st.dictionaries(st.text(max_size=8), _value(values, defined), max_size=2)
        case {"type": "record", "name": str(name)}:
            return _record(name, defined)
    raise AssertionError(f"no strategy for {kind!r}")
