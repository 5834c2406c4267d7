"""Generated from `schemas/avro/control.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta


@dataclass(frozen=True, slots=True, kw_only=True)
class Control(Record):
    """A change to what is live: prompts, channels, routes, policies, pauses. Kept for ever."""

    AVRO_NAME: ClassVar[str] = "headrace.Control"

    # Identity and cause
    meta: Meta
    # prompt, channel, route, policy, pause or cancel
    kind: str
    # What is changed
    name: str
    # Its new version
    version: str = ""
    # sha256 of its content, as hex
    digest: str = ""
    # Its content, as JSON
    body_json: str = ""
    # Who changed it
    author: str = ""
    # Why
    reason: str = ""
    # It is no longer live
    removed: bool = False
