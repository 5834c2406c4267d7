"""Generated from `schemas/avro/alert.avsc` by `python -m schemas.generate`; do not edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

from schemas.record import Record
from schemas.records.asked import Meta


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert(Record):
    """Something an operator should look at."""

    AVRO_NAME: ClassVar[str] = "headrace.Alert"

    # Identity and cause
    meta: Meta
    # What happened, e.g. dead_letter, budget, schema_unknown
    kind: str
    # info, warning or critical
    severity: str = "warning"
    # What it is about, e.g. a stage, tenant or deployment
    subject: str = ""
    # What was seen and what to do; no prompt text
    message: str = ""
    # Figure seen
    value: float | None = None
    # Figure that was crossed
    threshold: float | None = None
    # Labels for routing the alert
    labels: Mapping[str, str] = field(default_factory=dict)
    # Database time when it was raised (UTC microseconds)
    raised_at: datetime | None = None
