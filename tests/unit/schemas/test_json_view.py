"""What the command line prints of a record."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from schemas.json_view import to_json
from schemas.records import Cost, DeadLetter, Header, Request, Text
from tests.unit.schemas.events import ANSWER, META, REQUEST, SECRET


def test_a_record_is_json_with_its_fields_in_the_schemas_order() -> None:
    shown = to_json(ANSWER)

    assert list(shown)[:4] == ["meta", "status", "revision", "supersedes"]
    assert shown["meta"]["accepted_at"] == "2026-01-02T03:04:05.678901Z"
    assert shown["text"] == f"{SECRET} It wraps a function."
    assert shown["attempts"][0]["usage"]["prompt_tokens"] == 7
    assert shown["failure"] is None
    assert json.loads(json.dumps(shown)) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "0"),
        ("0E-12", "0"),
        ("-0.000000000000", "0"),
        ("0.001500000000", "0.0015"),
        ("1.5E-9", "0.0000000015"),
        ("1E+3", "1000"),
        ("1200.000000000000", "1200"),
        ("-3.10", "-3.1"),
    ],
)
def test_an_amount_has_no_exponent_and_no_trailing_zeros(amount: str, shown: str) -> None:
    cost = Cost(meta=META, attempt_id="a", state="done", amount_usd=Decimal(amount))

    assert to_json(cost)["amount_usd"] == shown


def test_a_time_is_utc_with_microseconds() -> None:
    local = datetime(2026, 1, 2, 4, 0, tzinfo=timezone(timedelta(hours=1)))
    assert to_json(replace(META, accepted_at=local))["accepted_at"] == "2026-01-02T03:00:00.000000Z"
    assert to_json(replace(META, accepted_at=datetime(2026, 1, 2, tzinfo=UTC)))["accepted_at"][-8:] == ".000000Z"


def test_bytes_are_base64_and_a_text_says_where_it_is() -> None:
    letter = DeadLetter(meta=META, value=b"\xff\x00", headers=(Header(key="h", value=b"v"), Header(key="h")))
    shown = to_json(letter)
    assert shown["value"] == "/wA="
    assert shown["headers"] == [{"key": "h", "value": "dg=="}, {"key": "h", "value": None}]

    def query(text: Text | None) -> object:
        return to_json(Request(meta=META, query=text))["query"]

    assert query(Text(inline="")) == ""
    assert query(Text(ref="sha256:00")) == {"ref": "sha256:00"}
    assert query(Text(sealed=b"\x01")) == {"sealed": "AQ=="}
    assert query(Text()) is None
    assert query(None) is None
    assert to_json(REQUEST)["metadata"] == {"origin": SECRET}
