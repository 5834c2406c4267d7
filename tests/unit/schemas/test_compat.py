"""The offline checks find every change that would strand a writer or a reader, and every breach of the house rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from schemas.compat import check
from schemas.files import event_schemas
from schemas.house import house_findings

TODAY = event_schemas()
Change = Callable[[list[dict[str, Any]]], None]


def _with(event: str, change: Change) -> dict[str, str]:
    schema = json.loads(TODAY[event])
    change(schema["fields"])
    return {**TODAY, event: json.dumps(schema)}


def _field(fields: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(field for field in fields if field["name"] == name)


def _retype(name: str, kind: Any) -> Change:
    return lambda fields: _field(fields, name).update(type=kind)


def _drop(name: str) -> Change:
    return lambda fields: fields.remove(_field(fields, name))


def _meta(change: Change) -> Change:
    return lambda fields: change(fields[0]["type"]["fields"])


def _rename(name: str, to: str) -> Change:
    return lambda fields: _field(fields, name).update(name=to)


def _found(today: dict[str, str]) -> set[tuple[str, str, str]]:
    return {(finding.record, finding.field, finding.rule) for finding in check(today, {"0.1.0": TODAY})}


def test_the_same_schemas_have_no_finding() -> None:
    assert check(TODAY, {"0.1.0": TODAY, "0.2.0": TODAY}) == []


def test_dropping_or_adding_a_field_with_a_default_is_no_finding() -> None:
    added = {"name": "later", "type": ["null", "string"], "doc": "Later", "default": None}
    assert check(_with("headrace.Alert", _drop("threshold")), {"0.1.0": TODAY}) == []
    assert check(_with("headrace.Alert", lambda fields: fields.append(added)), {"0.1.0": TODAY}) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_retype("attempt", "long"), ("Delta", "attempt", "type_mismatch")),
        (_retype("final", "string"), ("Delta", "final", "invalid")),
        (_retype("elapsed_ms", ["null", "string"]), ("Delta", "elapsed_ms", "missing_union_branch")),
        (_meta(_drop("tenant")), ("Meta", "tenant", "reader_field_missing_default_value")),
        (_meta(_rename("lane", "track")), ("Meta", "track", "reader_field_missing_default_value")),
        (_meta(_retype("control_offset", "int")), ("Meta", "control_offset", "type_mismatch")),
        (_meta(_retype("accepted_at", ["null", "long"])), ("Meta", "accepted_at", "logical_type")),
        (
            lambda fields: fields.append({"name": "must", "type": "string", "doc": "Must"}),
            ("Delta", "must", "reader_field_missing_default_value"),
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_change_that_strands_a_reader_or_a_writer_names_the_record_and_the_field(
    change: Change, finding: tuple[str, str, str]
) -> None:
    found = _found(_with("headrace.Delta", change))
    assert finding in found or (finding[2] == "invalid" and {rule for *_, rule in found} == {"invalid"})


def test_every_released_version_counts_not_the_last_alone() -> None:
    first = _with("headrace.Alert", _retype("value", ["null", "string"]))

    findings = check(TODAY, {"0.1.0": first, "0.2.0": TODAY})

    assert {(one.event, one.field) for one in findings} == {("headrace.Alert", "value")}
    assert all("0.1.0" in one.detail for one in findings)


def test_a_released_event_stays() -> None:
    fewer = {name: text for name, text in TODAY.items() if name != "headrace.Chunk"}
    assert _found(fewer) == {("headrace.Chunk", "", "event_removed")}


def _house(change: Change) -> set[tuple[str, str]]:
    return {(finding.field, finding.rule) for finding in house_findings(_with("headrace.Alert", change))}


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda fields: fields.reverse(), ("meta", "meta_first")),
        (lambda fields: _field(fields, "value").update(doc=" "), ("value", "doc")),
        (lambda fields: _field(fields, "severity").pop("default"), ("severity", "default")),
        (_retype("severity", {"type": "enum", "name": "Severity", "symbols": ["warning"]}), ("severity", "type")),
        (_retype("severity", {"type": "fixed", "name": "Id", "size": 16}), ("severity", "type")),
        (_retype("value", ["null", "float"]), ("value", "type")),
        (_retype("value", {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}), ("value", "type")),
        (_retype("value", ["double", "null"]), ("value", "union")),
        (_retype("value", ["null", "double", "string"]), ("value", "union")),
        (lambda fields: _field(fields, "value").update(default=1.0), ("value", "union")),
        (_retype("labels", {"type": "map", "values": ["null", "string"]}), ("labels", "union")),
        (_meta(_drop("run")), ("", "shared_record")),
    ],
    ids=range(12),
)
def test_a_breach_of_a_house_rule_is_found(change: Change, finding: tuple[str, str]) -> None:
    assert finding in _house(change)


def test_a_records_default_spells_out_its_fields() -> None:
    def cut(fields: list[dict[str, Any]]) -> None:
        del _field(fields, "sampling")["default"]["seed"]

    findings = house_findings(_with("headrace.Request", cut))
    assert ("sampling", "record_default", "does not spell out seed") in {
        (one.field, one.rule, one.detail) for one in findings
    }


def test_a_schema_that_is_none_is_the_only_finding() -> None:
    (finding,) = check({**TODAY, "headrace.Alert": '{"type": "record", "name": "Alert"}'}, {"0.1.0": TODAY})
    assert (finding.event, finding.rule) == ("headrace.Alert", "invalid")
