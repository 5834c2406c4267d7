"""The provider's own call log: what a verifier believes about paid calls and tokens.

One JSON line when a call is taken and one when it is answered or broken off, written with ``O_APPEND`` in one
``write`` each, so that nothing is torn when either side is killed. A call with ``begin`` and no ``end`` was open.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

_KEPT = 10_000
# US dollars for a token: what this provider puts on its bill.
PROMPT_USD, COMPLETION_USD, EMBEDDING_USD = Decimal("0.000003"), Decimal("0.000015"), Decimal("0.00000002")
BATCH_SHARE = Decimal("0.5")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who called, as the headers say, and what was asked for."""

    request_id: str
    attempt_id: str
    kind: str
    model: str = ""
    key: str = ""


@dataclass(slots=True)
class OpenCall:
    """A call while it is open. ``prompt_tokens`` and ``completion_tokens`` are what it is billed for so far."""

    number: int
    caller: Caller
    paid: bool
    share: Decimal
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def usd(self) -> Decimal:
        """What it is billed at."""
        if self.caller.kind == "embeddings":
            return self.share * EMBEDDING_USD * self.prompt_tokens
        return self.share * (PROMPT_USD * self.prompt_tokens + COMPLETION_USD * self.completion_tokens)


@dataclass(slots=True)
class Bill:
    """What every call together came to. ``calls``, ``paid`` and ``tokens`` are by kind of call."""

    open: int = 0
    paid: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    paid_by_kind: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    texts: int = 0
    usd: Decimal = Decimal(0)

    def shown(self) -> dict[str, Any]:
        """As ``GET /calls`` gives it."""
        return {
            "open": self.open,
            "paid": self.paid,
            "by_kind": dict(self.calls),
            "paid_by_kind": dict(self.paid_by_kind),
            "tokens": dict(self.tokens),
            "texts": self.texts,
            "usd": str(self.usd),
        }


class CallLog:
    """Appends to a file, and keeps the last lines for ``GET /calls``."""

    def __init__(self, path: Path | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._fd = None if path is None else os.open(path, flags, 0o644)
        self._lines: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._number = 0
        self.bill = Bill()

    def begin(
        self, caller: Caller, *, fault: str, paid: bool, prompt_tokens: int, share: Decimal = Decimal(1)
    ) -> OpenCall:
        """A call was taken; its prompt is on the bill from now on, if it is paid at all."""
        self._number += 1
        call = OpenCall(self._number, caller, paid, share, prompt_tokens=prompt_tokens if paid else 0)
        self.bill.open += 1
        self.bill.paid += paid
        self.bill.calls[caller.kind] += 1
        self.bill.paid_by_kind[caller.kind] += paid
        self._write("begin", call, {"fault": fault, "paid": paid, "model": caller.model})
        return call

    def end(self, call: OpenCall, outcome: str) -> None:
        """A call is over: ``answered``, or ``broken`` when the caller or a fault cut it off."""
        bill = self.bill
        bill.open -= 1
        bill.tokens["prompt"] += call.prompt_tokens
        bill.tokens["completion"] += call.completion_tokens
        bill.usd += call.usd
        tokens = {"prompt_tokens": call.prompt_tokens, "completion_tokens": call.completion_tokens}
        self._write("end", call, {"outcome": outcome, "usd": str(call.usd), **tokens})

    def recent(self) -> list[dict[str, Any]]:
        """The last lines."""
        return list(self._lines)

    def _write(self, event: str, call: OpenCall, more: dict[str, Any]) -> None:
        caller = call.caller
        line = {
            "time": time.time(),
            "pid": os.getpid(),
            "event": event,
            "call": call.number,
            "request_id": caller.request_id,
            "attempt_id": caller.attempt_id,
            "kind": caller.kind,
            **more,
        }
        self._lines.append(line)
        if self._fd is not None:
            os.write(self._fd, orjson.dumps(line) + b"\n")
