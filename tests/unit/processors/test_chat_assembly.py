"""An error inside a reply that began well is an error, however a gateway dresses it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from processors.model.assembly import ChatAssembly
from processors.model.fields import ReportedError


def choice(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": text}, "finish_reason": finish}


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"error": {"code": 502, "message": "CANARY"}}, 502),
        ({"error": {"code": "429"}, "choices": []}, 429),
        ({"error": {"code": 502}, "choices": [choice("", "error")]}, 502),
        ({"choices": [choice("", "error")]}, None),
        ({"error": "CANARY"}, None),
    ],
)
def test_an_error_in_a_stream_is_no_answer(event: dict[str, Any], status: int | None) -> None:
    assembly = ChatAssembly()
    assembly.add_event(json.dumps({"choices": [choice("half of it")]}))
    with pytest.raises(ReportedError) as caught:
        assembly.add_event(json.dumps(event))
    assert caught.value.status == status


def test_an_error_that_is_null_is_none() -> None:
    assembly = ChatAssembly()
    assert assembly.add_event(json.dumps({"error": None, "choices": [choice("whole", "stop")]}))
    assert assembly.finish_reason == "stop"
