"""A reply that was not good enough, as the journal keeps it until a stronger model has answered.

Its usage and times are in its attempt's row. What another release wrote is read as far as it is known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from processors.model.port import ModelReply
from schemas.records import CascadeStep

_REPLY = ("text", "finish_reason", "refusal", "tool_calls_json", "logprobs_json", "model", "response_id", "fingerprint")
_STEP = ("attempt", "deployment", "outcome", "check", "code", "value", "threshold")


@dataclass(frozen=True, slots=True)
class Kept:
    """The reply of the attempt of this number, and what was found about replies until then."""

    attempt: int
    reply: ModelReply
    steps: tuple[CascadeStep, ...]


def written(reply: ModelReply, attempt: int, steps: Sequence[CascadeStep]) -> bytes | None:
    """The reply as it is kept; ``None`` for one that no event can hold either: its text is no Unicode."""
    body = {
        "attempt": attempt,
        "reply": {name: getattr(reply, name) for name in _REPLY},
        "steps": [{name: getattr(step, name) for name in _STEP} for step in steps],
    }
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError:
        return None


def read(data: bytes) -> Kept | None:
    """What was kept; ``None`` where nothing can be made of it."""
    try:
        body = orjson.loads(data)
        reply = ModelReply(**_known(body["reply"], _REPLY))
        return Kept(int(body["attempt"]), reply, tuple(CascadeStep(**_known(one, _STEP)) for one in body["steps"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _known(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}
