"""The shape of a record type, read from its Avro schema, and values walked along it. Pure."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from math import isfinite
from typing import Any

from schemas import records
from schemas.files import event_schemas
from schemas.record import Record

# A leaf's type: Avro's own names, but decimal and time for the logical types that our schemas use.
Leaf = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """``kind``: record, array, map, or the type of a leaf. Records have ``fields``, arrays and maps one ``item``."""

    kind: str
    fields: tuple[tuple[str, Shape], ...] = ()
    item: Shape | None = None
    type: type[Record] | None = None


_TYPES: Mapping[str, type[Record]] = {
    kind.AVRO_NAME: kind
    for kind in vars(records).values()
    if isinstance(kind, type) and issubclass(kind, Record) and hasattr(kind, "AVRO_NAME")
}


def shape_of(kind: type[Record]) -> Shape:
    """The shape of a record type as its schema has it today."""
    return _shape(json.loads(event_schemas()[kind.AVRO_NAME]), {}, "")


def dumped(shape: Shape, value: Any, leaf: Leaf, *, pairs: bool = False) -> Any:
    """A record as nested dicts and lists; each leaf as ``leaf`` makes it. ``pairs``: maps as lists of pairs."""
    if value is None:
        return None
    if shape.kind == "record":
        return {name: dumped(inner, getattr(value, name), leaf, pairs=pairs) for name, inner in shape.fields}
    if shape.item is None:
        return leaf(shape.kind, value)
    if shape.kind == "array":
        return [dumped(shape.item, one, leaf, pairs=pairs) for one in value]
    made = [(key, dumped(shape.item, one, leaf, pairs=pairs)) for key, one in value.items()]
    return made if pairs else dict(made)


def loaded(shape: Shape, value: Any, leaf: Leaf) -> Any:
    """The record that ``dumped`` made this of. A field that is not there has its default.

    Raises ``TypeError``, ``ValueError`` or ``KeyError`` for what is none.
    """
    if value is None:
        return None
    if shape.kind == "record":
        assert shape.type is not None
        return shape.type(**{name: loaded(inner, value[name], leaf) for name, inner in shape.fields if name in value})
    if shape.item is None:
        return leaf(shape.kind, value)
    if shape.kind == "array":
        return tuple([loaded(shape.item, one, leaf) for one in value])
    return {key: loaded(shape.item, one, leaf) for key, one in (value.items() if isinstance(value, Mapping) else value)}


def as_it_is(_kind: str, value: Any) -> Any:
    """A leaf for files that have times, amounts and bytes of their own."""
    return value


def to_json_leaf(kind: str, value: Any) -> Any:
    """A leaf for JSON: times as ISO 8601, amounts as text, bytes as base64."""
    if kind == "time":
        text: str = value.astimezone(UTC).isoformat(timespec="microseconds")
        return text.replace("+00:00", "Z")
    if kind == "decimal":
        return f"{value:f}"
    if kind in ("double", "float") and not isfinite(value):
        # JSON has no number for it.
        return str(value)
    return b64encode(value).decode("ascii") if kind == "bytes" else value


def from_json_leaf(kind: str, value: Any) -> Any:
    """What ``to_json_leaf`` was given."""
    if kind == "time":
        return datetime.fromisoformat(value)
    if kind == "decimal":
        return Decimal(value)
    if kind in ("double", "float"):
        return float(value)
    return b64decode(value, validate=True) if kind == "bytes" else value


def _shape(schema: Any, named: dict[str, Shape], space: str) -> Shape:
    if isinstance(schema, list):
        (one,) = [inner for inner in schema if inner != "null"]
        return _shape(one, named, space)
    if isinstance(schema, str):
        return named.get(schema) or named.get(f"{space}.{schema}") or Shape(schema)
    if schema["type"] == "record":
        space = schema.get("namespace", space)
        name = f"{space}.{schema['name']}"
        fields = tuple((field["name"], _shape(field["type"], named, space)) for field in schema["fields"])
        named[name] = Shape("record", fields, type=_TYPES[name])
        return named[name]
    if schema["type"] == "array":
        return Shape("array", item=_shape(schema["items"], named, space))
    if schema["type"] == "map":
        return Shape("map", item=_shape(schema["values"], named, space))
    logical = {"decimal": "decimal", "timestamp-micros": "time"}.get(schema.get("logicalType", ""))
    return Shape(logical) if logical else _shape(schema["type"], named, space)
