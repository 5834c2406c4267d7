"""Bytes that others wrote: container files, a single-object message, Confluent's schemas and wire frames."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest
from avro.datafile import DataFileReader
from avro.io import DatumReader
from fastavro.schema import SchemaParseException, UnknownType, fingerprint, to_parsing_canonical_form

from schemas.codec import Codec
from schemas.compat import check
from schemas.errors import PoisonError, UndecodableError, WrongRecordError
from schemas.files import event_schemas
from schemas.records import Request
from schemas.registry import RegisteredSchema
from schemas.wire import schema_id_of
from tests.contract.avro_cases import DATA, case_id, files, lines, needs_data

pytestmark = needs_data

# Why a file can't be read, by library. Headrace reads no container files: these are the limits of what it ships.
_BEYOND = {
    ("fastavro", "weather-snappy.avro"): "snappy needs cramjam, which Headrace has no use for",
    ("fastavro", "weather-zstd.avro"): "zstandard needs backports.zstd, which Headrace has no use for",
    ("fastavro", "syncInMeta.avro"): "fastavro takes every metadata value for UTF-8; this one is a sync marker",
    ("fastavro", "test.avro12"): "the container format of Avro 1.2, which ended with 1.3",
    ("avro", "weather-snappy.avro"): "snappy needs python-snappy, which Headrace has no use for",
    ("avro", "weather-zstd.avro"): "zstandard needs a package that Headrace has no use for",
    ("avro", "test.avro12"): "the container format of Avro 1.2, which ended with 1.3",
}
_ROWS = {"syncInMeta.avro": 6001, "data.avro": 3}


def _containers() -> list[Any]:
    found = []
    for path in [*files("data/*.avro*"), *files("data/schemas/*/*.avro")]:
        for library in ("fastavro", "avro"):
            cause = _BEYOND.get((library, path.name))
            marks = [pytest.mark.xfail(strict=True, reason=cause)] if cause else []
            found.append(pytest.param(library, path, marks=marks, id=f"{library}-{path.name}"))
    return found


def _rows(library: str, path: Path) -> list[Any]:
    with path.open("rb") as opened:
        return list(fastavro.reader(opened) if library == "fastavro" else DataFileReader(opened, DatumReader()))


@pytest.mark.parametrize(("library", "path"), _containers())
def test_a_container_file_holds_the_rows_it_was_written_with(library: str, path: Path) -> None:
    rows = _rows(library, path)

    if path.name.startswith("weather"):
        expected = [json.loads(line) for line in (DATA / "data" / "weather.json").read_text().splitlines()]
        key = lambda row: (row["station"], row["time"])  # noqa: E731
        assert sorted(rows, key=key) == sorted(expected, key=key)
    else:
        assert len(rows) == _ROWS[path.name]


def test_a_single_object_message_names_its_schema_by_fingerprint() -> None:
    folder = DATA / "data" / "messageV1"
    schema, message = json.loads((folder / "test_schema.avsc").read_text()), (folder / "test_message.bin").read_bytes()

    assert message[:2] == b"\xc3\x01"
    assert message[2:10].hex() == fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
    read = fastavro.schemaless_reader(io.BytesIO(message[10:]), schema, None)
    assert read == {"id": 42, "name": "Bill", "tags": ["dog_lover", "cat_hater"], **_scores(schema)}


def _scores(schema: Any) -> dict[str, Any]:
    return {"scores": {}} if any(field["name"] == "scores" for field in schema["fields"]) else {}


def test_a_single_object_message_is_no_frame_of_ours() -> None:
    with pytest.raises(UndecodableError, match="starts with byte 195"):
        Codec.offline().decode_any((DATA / "data" / "messageV1" / "test_message.bin").read_bytes())


@pytest.mark.parametrize("path", [*files("confluent_schemas/*.avsc"), *files("schemas/*.avsc")], ids=case_id)
def test_a_valid_schema_parses_and_an_invalid_one_is_refused_by_name(path: Path) -> None:
    schema = json.loads(path.read_text())

    if "invalid" in path.name:
        with pytest.raises((UnknownType, SchemaParseException), match="array"):
            fastavro.parse_schema(schema)
        (finding,) = check({**event_schemas(), "headrace.Broken": json.dumps(schema)}, {})
        assert (finding.event, finding.rule) == ("headrace.Broken", "invalid")
    else:
        fastavro.parse_schema(schema)


_FRAMES = lines("confluent_wire_frames.jsonl")


@pytest.mark.parametrize("case", [case for case in _FRAMES if case["schema_id"] is not None], ids=case_id)
def test_a_frame_names_the_schema_id_that_confluent_wrote(case: dict[str, Any]) -> None:
    assert schema_id_of(bytes.fromhex(case["hex"])) == case["schema_id"]


@pytest.mark.parametrize("case", [case for case in _FRAMES if case["schema_id"] is None], ids=case_id)
def test_bytes_without_the_magic_byte_are_refused(case: dict[str, Any]) -> None:
    with pytest.raises(UndecodableError, match="no Avro frame"):
        Codec.offline().record_name(bytes.fromhex(case["hex"]))


@pytest.mark.parametrize("case", _FRAMES, ids=case_id)
def test_no_foreign_frame_is_taken_for_a_request(case: dict[str, Any]) -> None:
    """Under the id of a request the bodies do not fit; under their own schema they are another type."""
    frame = bytes.fromhex(case["hex"])
    ids = {name: number for number, name in enumerate(event_schemas(), start=2)}
    with pytest.raises(PoisonError):
        Codec({**ids, "headrace.Request": 1}).decode(frame, Request)
    if "schema" in case:
        known = [RegisteredSchema(case["schema_id"], case["schema"])]
        with pytest.raises(WrongRecordError):
            Codec(ids, known=known).decode(frame, Request)
