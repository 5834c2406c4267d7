"""Deterministic ids: the same cause gives the same event, however often it is delivered."""

from __future__ import annotations

from functools import lru_cache
from uuid import UUID, uuid5

_NAMESPACE = UUID("6f1d5c6e-5d0b-5a3f-9c1e-0a4f6b7d8e21")
# A call's ids are asked for again and again while it is made: more calls than are ever open, about 2 MB.
_REMEMBERED = 8_192
# Separates the parts of a name; it can't occur in an id, because control characters are refused at admission.
_UNIT_SEPARATOR = "\x1f"


@lru_cache(maxsize=_REMEMBERED, typed=True)
def derive_id(*parts: str | int) -> str:
    """UUIDv5 of the parts, in order."""
    return str(uuid5(_NAMESPACE, _UNIT_SEPARATOR.join(str(part) for part in parts)))


def event_id(*, tenant: str, lane: str, run: str, stage: str, causation_id: str, ordinal: int = 0) -> str:
    """The id of the event that ``stage`` derives from the event ``causation_id``, its ``ordinal``-th output."""
    return derive_id(tenant, lane, run, stage, causation_id, ordinal)


def request_event_id(*, tenant: str, lane: str, request_id: str) -> str:
    """The id of a request's first event, which has no cause."""
    return event_id(tenant=tenant, lane=lane, run="", stage="producer", causation_id=request_id)
