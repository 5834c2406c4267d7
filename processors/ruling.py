"""What admission's limits said to a request; kept with its reservation, so that a redelivery gets the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

# ``open``: known, and not decided yet. Empty: no limit was asked. What was decided is decided for good, but ``queued``
# becomes ``admitted`` when its time has come.
Verdict = Literal["", "open", "admitted", "queued", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A verdict. ``by`` names the limit, ``until`` when the request (if rejected: another one) may go on."""

    verdict: Verdict
    by: str = ""
    until: datetime | None = None


UNASKED = Ruling(verdict="")
OPEN = Ruling(verdict="open")
ADMITTED = Ruling(verdict="admitted")
