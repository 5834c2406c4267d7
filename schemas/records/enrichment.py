"""Generated from `schemas/avro/enrichment.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta
from schemas.records.done import Admission, Grounding
from schemas.records.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrichment(Record):
    """A request with all that the model will be shown."""

    AVRO_NAME: ClassVar[str] = "headrace.Enrichment"

    # Identity and cause
    meta: Meta
    # The request as it was published
    request: Request
    # What admission decided
    admission: Admission
    # What is put before the model
    grounding: Grounding
