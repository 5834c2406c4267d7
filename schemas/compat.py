"""Whether today's schemas can live with every released version: FULL_TRANSITIVE, and the house rules. No registry.

The ``avro`` package judges readers against writers. Each field is judged by itself, with the records inside it
reduced to their names, so that a finding names the record and the field it is about and comes once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.errors import AvroException
from fastavro import parse_schema
from fastavro.schema import SchemaParseException, UnknownType

from schemas.files import event_schemas, released_versions
from schemas.house import Finding, by_name, house_findings, records

Schemas = Mapping[str, str]
_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the ``avro`` package says of one reader and one writer."""

    compatible: bool
    kinds: tuple[str, ...]
    locations: tuple[str, ...]
    messages: tuple[str, ...]


def judge(reader: Any, writer: Any) -> Verdict:
    """Whether data written under ``writer`` can be read under ``reader``, both as parsed JSON."""
    result = ReaderWriterCompatibilityChecker().get_compatibility(_avro(reader), _avro(writer))  # type: ignore[no-untyped-call]
    return Verdict(
        compatible=result.compatibility is SchemaCompatibilityType.compatible,
        kinds=tuple(kind.name for kind in result.incompatibilities),
        locations=tuple(sorted(result.locations)),
        messages=tuple(sorted(result.messages)),
    )


def check_today() -> list[Finding]:
    """Every finding on the schemas as they are in this installation."""
    return check(event_schemas(), {name: event_schemas(folder) for name, folder in released_versions().items()})


def check(today: Schemas, released: Mapping[str, Schemas]) -> list[Finding]:
    """Every finding on today's schemas, given those of each released version; empty when all is well."""
    if findings := list(_invalid(today)):
        return findings
    findings = house_findings(today)
    for version, schemas in released.items():
        findings += version_findings(today, schemas, version)
    return findings


def version_findings(today: Schemas, released: Schemas, version: str) -> Iterator[Finding]:
    """What today's schemas break for the events, producers and consumers of one released version."""
    for event, text in released.items():
        if event not in today:
            yield Finding(event, event, "", "event_removed", f"released in {version}; its events are still on topics")
            continue
        was = {record["name"]: record for record in records(json.loads(text))}
        for record in records(json.loads(today[event])):
            if record["name"] in was:
                yield from _record_findings(event, was[record["name"]], record, version)


def _record_findings(event: str, was: Any, now: Any, version: str) -> Iterator[Finding]:
    for reader, writer, way in ((now, was, f"{version} read today"), (was, now, f"today's read by {version}")):
        for field in reader["fields"]:
            found = judge(_only(reader, [field]), _only(writer, writer["fields"]))
            for kind in found.kinds:
                detail = f"{way}: {'; '.join(found.messages)}"
                yield Finding(event, reader["name"], field["name"], kind, detail)
    old = {field["name"]: _logical(field["type"]) for field in was["fields"]}
    for field in now["fields"]:
        if old.get(field["name"], _logical(field["type"])) != _logical(field["type"]):
            yield Finding(event, now["name"], field["name"], "logical_type", f"differs from {version}")


def _only(record: Any, fields: list[Any]) -> Any:
    """The record with these fields alone, and every record inside them emptied. Aliases and defaults stay."""
    defined: set[str] = set()
    return {**record, "fields": [{**field, "type": _emptied(by_name(field["type"]), defined)} for field in fields]}


def _emptied(kind: Any, defined: set[str]) -> Any:
    if isinstance(kind, list):
        return [_emptied(branch, defined) for branch in kind]
    if isinstance(kind, dict):
        return {key: _emptied(value, defined) if key in ("items", "values") else value for key, value in kind.items()}
    if kind in _PRIMITIVES or kind in defined:
        return kind
    defined.add(kind)
    return {"type": "record", "name": kind, "fields": []}


def _logical(kind: Any) -> Any:
    """The logical types in a type, with their parameters; Avro's own verdict does not look at them."""
    if isinstance(kind, list):
        return [found for branch in kind if (found := _logical(branch))]
    if isinstance(kind, dict):
        inner = [found for key in ("items", "values") if key in kind and (found := _logical(kind[key]))]
        own = {key: kind[key] for key in ("logicalType", "precision", "scale") if key in kind}
        return [own, *inner] if own else inner
    return []


def _invalid(schemas: Schemas) -> Iterator[Finding]:
    """Schemas that one of the two Avro libraries refuses; fastavro also refuses a default of another type."""
    for event, text in schemas.items():
        try:
            _avro(json.loads(text))
            parse_schema(json.loads(text), {})
        except (AvroException, SchemaParseException, UnknownType, ValueError) as error:
            yield Finding(event, event, "", "invalid", f"{type(error).__name__}: {error}")


def _avro(schema: Any) -> avro.schema.Schema:
    return avro.schema.parse(json.dumps(schema))
