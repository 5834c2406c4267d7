"""The rules that our own schemas keep, because a released mistake stays for good.

* The first field of every event is ``meta``, of record ``Meta``.
* Every record and field has a ``doc``.
* Every field has a default, but those of ``REQUIRED``: a required field can never be added or taken away later.
* No enum and no fixed (neither can grow); a union is ``["null", X]`` with default null.
* Money is decimal(38, 12) in bytes, a time is timestamp-micros, a number with a fraction is a double.
* A record that several events share is the same in all of them, and a record's default spells out all its fields.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NAMESPACE = "headrace"
# What identifies a record or makes it one; an event without it would be no event of its kind.
REQUIRED: dict[str, frozenset[str]] = {
    "Meta": frozenset({"event_id", "request_id", "tenant", "lane"}),
    "Admitted": frozenset({"request", "admission"}),
    "Enrichment": frozenset({"request", "admission", "grounding"}),
    "Completion": frozenset({"request", "admission", "grounding"}),
    "Answer": frozenset({"status"}),
    "Evaluation": frozenset({"answer_event_id"}),
    "Cost": frozenset({"attempt_id", "state", "amount_usd"}),
    "Document": frozenset({"document_id"}),
    "Alert": frozenset({"kind"}),
    "Control": frozenset({"kind", "name"}),
    "Message": frozenset({"role"}),
    "ContentPart": frozenset({"type"}),
    "PromptRef": frozenset({"name"}),
    "Grounding": frozenset({"question"}),
    "Passage": frozenset({"passage_id", "document_id", "namespace", "digest", "score", "text"}),
    "Citation": frozenset({"passage_id", "document_id"}),
    "Attempt": frozenset({"attempt_id", "state"}),
    "Timing": frozenset({"stage"}),
    "Span": frozenset({"kind"}),
    "Verdict": frozenset({"guard", "outcome"}),
    "Failure": frozenset({"code", "error_class", "message"}),
    "Score": frozenset({"name", "scorer", "scorer_version"}),
    "Header": frozenset({"key"}),
}
_PLAIN = ("string", "bytes", "boolean", "int", "long", "double")
_MONEY = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 12}
_TIME = {"type": "long", "logicalType": "timestamp-micros"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: in which event's file, in which record and field, and against which rule."""

    event: str
    record: str
    field: str
    rule: str
    detail: str

    def __str__(self) -> str:
        where = f"{self.record}.{self.field}" if self.field else self.record
        return f"{self.event}: {where}: {self.rule}: {self.detail}"


def records(schema: Any) -> Iterator[dict[str, Any]]:
    """The record definitions in a schema, outermost first."""
    if isinstance(schema, list):
        for branch in schema:
            yield from records(branch)
    elif isinstance(schema, dict):
        if schema.get("type") == "record":
            yield schema
            for field in schema["fields"]:
                yield from records(field["type"])
        for key in ("type", "items", "values"):
            if isinstance(schema.get(key), (dict, list)):
                yield from records(schema[key])


def by_name(kind: Any) -> Any:
    """A type with every record in it replaced by its name, so that where a record is spelled out does not matter."""
    if isinstance(kind, list):
        return [by_name(branch) for branch in kind]
    if isinstance(kind, dict):
        if kind["type"] == "record":
            return kind["name"]
        return {key: by_name(value) if key in ("items", "values") else value for key, value in kind.items()}
    return kind


def house_findings(schemas: Mapping[str, str]) -> list[Finding]:
    """Every breach of the rules in the events' schemas (JSON by full name); empty when there is none."""
    findings: list[Finding] = []
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for event, text in schemas.items():
        schema = json.loads(text)
        defined = {record["name"]: record for record in records(schema)}
        findings += _meta_first(event, schema)
        for name, record in defined.items():
            own = {"doc": record.get("doc"), "fields": [{**f, "type": by_name(f["type"])} for f in record["fields"]]}
            home, known = first.setdefault(name, (event, own))
            if known != own:
                findings.append(Finding(event, name, "", "shared_record", f"differs from the one in {home}"))
            findings += _record_findings(event, record, defined)
    return findings


def _meta_first(event: str, schema: dict[str, Any]) -> Iterator[Finding]:
    if schema.get("namespace") != NAMESPACE:
        yield Finding(event, schema["name"], "", "namespace", f"must be {NAMESPACE}")
    field = schema["fields"][0] if schema["fields"] else {}
    kind = field.get("type")
    if field.get("name") != "meta" or "Meta" not in (kind, kind.get("name") if isinstance(kind, dict) else None):
        yield Finding(event, schema["name"], "meta", "meta_first", "the first field must be meta, of record Meta")


def _record_findings(event: str, record: dict[str, Any], defined: Mapping[str, Any]) -> Iterator[Finding]:
    name = record["name"]
    required = REQUIRED.get(name, frozenset()) | {"meta"}
    if not record.get("doc", "").strip():
        yield Finding(event, name, "", "doc", "has no doc")
    for field in record["fields"]:
        if not field.get("doc", "").strip():
            yield Finding(event, name, field["name"], "doc", "has no doc")
        if "default" not in field and field["name"] not in required:
            yield Finding(event, name, field["name"], "default", "has no default and is none of the required fields")
        for rule, detail in _type_breaches(field["type"], field, defined):
            yield Finding(event, name, field["name"], rule, detail)


def _type_breaches(kind: Any, field: dict[str, Any], defined: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(kind, list):
        if len(kind) != 2 or kind[0] != "null" or field.get("default", "") is not None:
            yield "union", 'must be ["null", X] with default null'
        kind = kind[-1]
    if isinstance(kind, dict) and kind["type"] in ("array", "map"):
        kind = kind["items" if kind["type"] == "array" else "values"]
    name = kind.get("name") if isinstance(kind, dict) else kind
    if isinstance(kind, list):
        yield "union", "a union inside an array or map"
    elif isinstance(name, str) and name in defined:
        yield from _record_default(defined[name], field)
    elif kind not in (_MONEY, _TIME) and kind not in _PLAIN:
        yield "type", f"{json.dumps(kind)} is none of the types in use"


def _record_default(record: dict[str, Any], field: dict[str, Any]) -> Iterator[tuple[str, str]]:
    default, kind = field.get("default"), field["type"]
    single = kind == record["name"] or (isinstance(kind, dict) and kind["type"] == "record")
    if single and isinstance(default, dict):
        missing = [inner["name"] for inner in record["fields"] if inner["name"] not in default]
        if missing:
            yield "record_default", f"does not spell out {', '.join(missing)}"
