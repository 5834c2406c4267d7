"""Files of records: Parquet, JSON lines and Avro. Each is written in portions and read in portions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import fastavro
import orjson

from schemas.errors import ConfigurationError
from schemas.files import event_schemas
from schemas.record import Record
from streams.exporting.shape import (
    Leaf,
    Shape,
    as_it_is,
    dumped,
    from_json_leaf,
    loaded,
    shape_of,
    to_json_leaf,
)

# Where a record lay, before its own fields. Headers are kept as they were.
PLACE = ("_topic", "_partition", "_offset", "_time", "_key", "_headers")
FORMATS = ("parquet", "jsonl", "avro")
# Rows that are held at once.
PORTION = 1_000

Row = tuple[Mapping[str, Any], Record]


class Writer(Protocol):
    """Writes one file."""

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows: where each lay (``PLACE``), and the record."""
        ...

    def close(self) -> None:
        """End the file."""
        ...


def suffix(name: str) -> str:
    """What the files of a format end in."""
    return f".{name}"


def writer_of(name: str, kind: type[Record], file: Path) -> Writer:
    """A writer of a format, for records of a type. Raises ``ConfigurationError`` where its library is missing."""
    if name == "parquet":
        return _Parquet(kind, file)
    return _JsonLines(kind, file) if name == "jsonl" else _Avro(kind, file)


def read_rows(name: str, kind: type[Record], file: Path) -> Iterator[Row]:
    """The rows of a file, in order. Raises ``ConfigurationError`` for a file that is none, with the row."""
    shape, leaf = shape_of(kind), from_json_leaf if name == "jsonl" else as_it_is
    rows = {"parquet": _parquet_rows, "jsonl": _json_rows, "avro": _avro_rows}[name](file)
    number = 0
    try:
        for row in rows:
            yield _row(shape, row, leaf)
            number += 1
    except (ValueError, TypeError, KeyError, AssertionError, OSError, EOFError) as error:
        raise ConfigurationError(f"{file}, after row {number}: it can't be read ({type(error).__name__})") from None


def _row(shape: Shape, row: Mapping[str, Any], leaf: Leaf) -> Row:
    headers = [(one["name"], None if one["value"] is None else leaf("bytes", one["value"])) for one in row["_headers"]]
    place = {
        **{name: row[name] for name in ("_topic", "_partition", "_offset")},
        "_time": leaf("time", row["_time"]),
        "_key": None if row["_key"] is None else leaf("bytes", row["_key"]),
        "_headers": headers,
    }
    record = loaded(shape, row, leaf)
    assert isinstance(record, Record)
    return place, record


def _flat(shape: Shape, row: Row, leaf: Leaf, *, pairs: bool = False) -> dict[str, Any]:
    place, record = row
    headers = [
        {"name": name, "value": None if value is None else leaf("bytes", value)} for name, value in place["_headers"]
    ]
    key = None if place["_key"] is None else leaf("bytes", place["_key"])
    where = {**place, "_time": leaf("time", place["_time"]), "_key": key, "_headers": headers}
    return {**where, **dumped(shape, record, leaf, pairs=pairs)}


class _JsonLines:
    def __init__(self, kind: type[Record], file: Path) -> None:
        self._shape, self._file = shape_of(kind), file.open("wb")

    def write(self, rows: Sequence[Row]) -> None:
        self._file.writelines(orjson.dumps(_flat(self._shape, row, to_json_leaf)) + b"\n" for row in rows)

    def close(self) -> None:
        self._file.close()


class _Avro:
    def __init__(self, kind: type[Record], file: Path) -> None:
        self._shape = shape_of(kind)
        self._file: BinaryIO = file.open("wb")
        self._writer = fastavro.write.Writer(self._file, fastavro.parse_schema(_avro_schema(kind)), codec="deflate")

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._writer.write(_flat(self._shape, row, as_it_is))

    def close(self) -> None:
        self._writer.flush()
        self._file.close()


class _Parquet:
    def __init__(self, kind: type[Record], file: Path) -> None:
        self._arrow, parquet = _arrow()
        self._shape = shape_of(kind)
        self._schema = _arrow_schema(self._arrow, self._shape)
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        plain = [_flat(self._shape, row, as_it_is, pairs=True) for row in rows]
        self._writer.write_table(self._arrow.Table.from_pylist(plain, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _json_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open("rb") as lines:
        for line in lines:
            yield orjson.loads(line)


def _avro_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    with file.open("rb") as stream:
        for row in fastavro.reader(stream):
            if not isinstance(row, dict):
                raise TypeError("no record")
            yield row


def _parquet_rows(file: Path) -> Iterator[Mapping[str, Any]]:
    _, parquet = _arrow()
    with parquet.ParquetFile(file) as opened:
        for batch in opened.iter_batches(batch_size=PORTION):
            yield from batch.to_pylist()


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow  # noqa: PLC0415  (large, and only this format needs it)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            "--format: parquet needs pyarrow, which the extra `export` brings; install headrace[export], or take jsonl"
        ) from None
    return pyarrow, pyarrow.parquet


def _arrow_schema(arrow: Any, shape: Shape) -> Any:
    header = arrow.struct([("name", arrow.string()), ("value", arrow.binary())])
    types = (arrow.string(), arrow.int32(), arrow.int64(), _leaf(arrow, "time"), arrow.binary(), arrow.list_(header))
    place = list(zip(PLACE, types, strict=True))
    return arrow.schema(place + [(name, _arrow_type(arrow, inner)) for name, inner in shape.fields])


def _arrow_type(arrow: Any, shape: Shape) -> Any:
    if shape.kind == "record":
        return arrow.struct([(name, _arrow_type(arrow, inner)) for name, inner in shape.fields])
    if shape.item is None:
        return _leaf(arrow, shape.kind)
    item = _arrow_type(arrow, shape.item)
    return arrow.list_(item) if shape.kind == "array" else arrow.map_(arrow.string(), item)


def _leaf(arrow: Any, kind: str) -> Any:
    return {
        "string": arrow.string(),
        "int": arrow.int32(),
        "long": arrow.int64(),
        "float": arrow.float32(),
        "double": arrow.float64(),
        "boolean": arrow.bool_(),
        "bytes": arrow.binary(),
        "decimal": arrow.decimal128(38, 12),
        "time": arrow.timestamp("us", tz="UTC"),
    }[kind]


def _avro_schema(kind: type[Record]) -> dict[str, Any]:
    """The record's own schema with the fields of its place before it, under a name of its own."""
    schema = json.loads(event_schemas()[kind.AVRO_NAME])
    optional = ["null", "bytes"]
    header = {
        "type": "record",
        "name": "ExportedHeader",
        "namespace": "headrace",
        "fields": [{"name": "name", "type": "string"}, {"name": "value", "type": optional}],
    }
    place = [
        {"name": "_topic", "type": "string"},
        {"name": "_partition", "type": "int"},
        {"name": "_offset", "type": "long"},
        {"name": "_time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "_key", "type": optional},
        {"name": "_headers", "type": {"type": "array", "items": header}},
    ]
    return {**schema, "name": f"Exported{schema['name']}", "fields": place + schema["fields"]}
