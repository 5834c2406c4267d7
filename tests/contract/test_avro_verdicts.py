"""Reader and writer verdicts, canonical forms and fingerprints are those that Avro itself records."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas.compat import judge
from tests.contract.avro_cases import case_id, lines, needs_data

pytestmark = needs_data

PAIRS = lines("schema_compat_pairs.jsonl")
FORMS = lines("canonical_fingerprint.jsonl")


def _schema(case: dict[str, Any]) -> Any:
    """The schema of a case. One is no JSON (an octal number): upstream gives the input to use instead."""
    return json.loads(case["input"].rpartition("<<INPUT ")[2])


@pytest.mark.parametrize("case", PAIRS, ids=case_id)
def test_the_verdict_on_a_reader_and_a_writer_is_the_recorded_one(case: dict[str, Any]) -> None:
    found = judge(case["reader"], case["writer"])

    assert found.compatible == (case["compatibility"] == "compatible")
    assert [f"SchemaIncompatibilityType.{kind}" for kind in found.kinds] == case["incompatibilities"]
    assert sorted(found.locations) == sorted(case["locations"])


@pytest.mark.parametrize("case", FORMS, ids=case_id)
def test_the_canonical_form_is_the_recorded_one(case: dict[str, Any]) -> None:
    assert to_parsing_canonical_form(_schema(case)) == case["canonical"]


@pytest.mark.parametrize("case", [case for case in FORMS if case["fingerprint64"]], ids=case_id)
def test_the_crc_64_avro_fingerprint_is_the_recorded_one(case: dict[str, Any]) -> None:
    found = bytes.fromhex(fingerprint(case["canonical"], "CRC-64-AVRO"))

    assert int.from_bytes(found, "little", signed=True) == int(case["fingerprint64"])
