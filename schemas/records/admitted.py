"""Generated from `schemas/avro/admitted.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta
from schemas.records.done import Admission
from schemas.records.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted(Record):
    """A request that passed admission."""

    AVRO_NAME: ClassVar[str] = "headrace.Admitted"

    # Identity and cause
    meta: Meta
    # The request as it was published
    request: Request
    # What admission decided
    admission: Admission
