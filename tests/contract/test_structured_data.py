"""JSON schemas, repairs and parser bytes of others: all of them hold but those in ``structured_gaps``."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from processors.admit.schema import check_schema
from processors.filter.json_text import clean_json, parse
from processors.json_schema import DIALECTS
from processors.structured.check import fault_of
from processors.structured.repair import UnrepairableError, repaired
from schemas.errors import RefusedError
from schemas.records import ResponseFormat, Text
from tests.contract.structured_gaps import REFUSED, REPAIRS, WRONG

DATA = Path(__file__).parents[3] / "shared/data/json_structured_output/public"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the shared data in {DATA}")
DIALECT = dict(zip(("draft2020-12", "draft7"), DIALECTS, strict=True))
OBJECT = ResponseFormat(type="json_object")


def rows(name: str) -> Iterator[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def wanted(group: dict[str, Any]) -> ResponseFormat:
    """The group's schema, which says by which draft it is meant."""
    schema = group["schema"]
    if isinstance(schema, dict):
        schema = {"$schema": DIALECT[group["draft"]], **schema}
    return ResponseFormat(type="json_schema", schema_json=Text(inline=json.dumps(schema)))


def refused(asked: ResponseFormat) -> str | None:
    assert asked.schema_json is not None
    try:
        check_schema(json.loads(asked.schema_json.inline or ""), "schema_json")
    except RefusedError as error:
        return str(error)
    return None


def flat(known: dict[str, list[str]]) -> set[str]:
    return {case for cases in known.values() for case in cases}


@needs_data
def test_schemas_are_refused_or_hold_for_every_instance_but_the_known_ones() -> None:
    turned_down, wrong, right = set(), set(), 0
    for group in rows("json_schema_suite.jsonl"):
        asked = wanted(group)
        if refused(asked) is not None:
            turned_down.add(group["id"])
            continue
        for number, case in enumerate(group["tests"]):
            fault = fault_of(json.dumps(case["data"], ensure_ascii=False), asked)
            if (fault is None) == case["valid"]:
                right += 1
            else:
                wrong.add(f"{group['id']}/{number}")
    assert (turned_down, wrong) == (flat(REFUSED), flat(WRONG))
    assert right >= 1_122


@needs_data
def test_a_text_is_taken_for_json_exactly_where_the_standard_says_so() -> None:
    seen = 0
    for case in rows("json_parsing_bytes.jsonl"):
        raw = base64.b64decode(case["bytes_b64"])
        try:
            parse(raw.decode())
        except ValueError:
            taken = False
        else:
            taken = True
        if case["expect"] != "either":
            seen += 1
            assert taken == (case["expect"] == "accept"), case["id"]
    assert seen == 129


@needs_data
@pytest.mark.parametrize("opening", ["[", '{"":'])
def test_the_parser_files_that_are_too_large_to_ship_are_faults(opening: str) -> None:
    fault = fault_of(opening * 100_000, OBJECT)
    assert fault is not None and fault.code == "invalid_json"


@needs_data
def test_broken_json_is_repaired_but_for_the_known_cases() -> None:
    wrong, right = set(), 0
    for case in rows("json_repair_cases.jsonl"):
        if _read(case["malformed"]) == _expected(case["expected"]):
            right += 1
        else:
            wrong.add(case["id"])
    assert wrong == flat(REPAIRS)
    assert right + len(wrong) == 88


@needs_data
def test_what_is_repaired_is_json_that_the_filter_can_mask() -> None:
    for case in rows("json_repair_cases.jsonl"):
        try:
            text, value = repaired(case["malformed"])
        except UnrepairableError:
            continue
        assert parse(text) == value
        parse(clean_json(text, ("GB", "US")).text)


@needs_data
def test_what_models_wrote_in_json_mode_is_taken_as_it_is_and_broken_in_any_way_never_blows_up() -> None:
    lost = 0
    for case in rows("json_mode_chats.jsonl"):
        text = case["assistant"]
        assert fault_of(text, OBJECT) is None
        value = orjson.loads(text)
        assert repaired(f"Here you are:\n```json\n{text}\n```\nGood luck!")[1] == value
        cut = repaired(text[: len(text) * 2 // 3])[1]
        lost += not (isinstance(cut, dict) and set(cut) <= set(value))
    assert lost <= 2


def _read(text: str) -> Any:
    try:
        return parse(text)
    except ValueError:
        pass
    try:
        return repaired(text)[1]
    except UnrepairableError:
        return UnrepairableError


def _expected(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
