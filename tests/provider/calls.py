"""The provider's own call log: what a verifier believes about paid calls.

One JSON line when a call is taken and one when it is answered or broken off, written with ``O_APPEND`` in one
``write`` each, so that nothing is torn when either side is killed. A call with ``begin`` and no ``end`` was open.
"""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import orjson

_KEPT = 10_000


class CallLog:
    """Appends to a file, and keeps the last lines for ``GET /calls``."""

    def __init__(self, path: Path | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._fd = None if path is None else os.open(path, flags, 0o644)
        self._lines: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._number = 0
        self.open = 0
        self.paid = 0

    def begin(self, *, request_id: str, attempt_id: str, kind: str, fault: str, paid: bool) -> int:
        """A call was taken. Returns its number."""
        self._number += 1
        self.open += 1
        self.paid += paid
        self._write(
            {
                "event": "begin",
                "call": self._number,
                "request_id": request_id,
                "attempt_id": attempt_id,
                "kind": kind,
                "fault": fault,
                "paid": paid,
            }
        )
        return self._number

    def end(self, number: int, outcome: str, *, request_id: str, attempt_id: str) -> None:
        """A call is over: ``answered``, or ``broken`` when the caller or a fault cut it off."""
        self.open -= 1
        self._write(
            {"event": "end", "call": number, "outcome": outcome, "request_id": request_id, "attempt_id": attempt_id}
        )

    def recent(self) -> list[dict[str, Any]]:
        """The last lines."""
        return list(self._lines)

    def _write(self, line: dict[str, Any]) -> None:
        line = {"time": time.time(), "pid": os.getpid(), **line}
        self._lines.append(line)
        if self._fd is not None:
            os.write(self._fd, orjson.dumps(line) + b"\n")
