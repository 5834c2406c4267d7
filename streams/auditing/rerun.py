"""Runs the filter again over recorded completions, through its declaration, and compares. Spends nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import fields
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, cast

from processors.claimcheck import named
from processors.clock import FakeClock
from processors.event import Incoming
from processors.failpoints import Unarmed
from schemas.errors import HeadraceError, RefusedError
from schemas.records import Answer, Completion
from streams.metrics import Metrics
from streams.ports import Ports
from streams.settings import Settings
from streams.stages import STAGES, Effect

STAGE = STAGES["filter"]
# Not what the filter decides: who it is, when it became final, and which revision it was given.
_LEFT_OUT = ("meta", "decided_at", "timings", "revision", "supersedes", "duplicate_of")
COMPARED = tuple(one.name for one in fields(Answer) if one.name not in _LEFT_OUT)
PRINT_BYTES = 6
# Ends that the filter itself decides; others come from the runner: a cancel, a time-out, a poison event.
OWN_CODES = (
    "",
    "expired",
    "content_filter",
    "model_refused",
    "output_truncated",
    "empty_output",
    "invalid_json",
    "schema_mismatch",
)


def prints(answer: Answer) -> bytes:
    """A short digest of each compared field, one after another: which fields differ can be told later."""
    return b"".join(_print(getattr(answer, name)) for name in COMPARED)


def print_of(answer: Answer) -> bytes:
    """A digest of all that an answer says, its texts by their references: it may lie parted, or as another version."""
    return hashlib.blake2b(repr(named(answer)).encode(), digest_size=16).digest()


def differing(one: bytes, other: bytes) -> list[str]:
    """The names of the fields whose digests are not the same."""
    return [
        name
        for place, name in enumerate(COMPARED)
        if one[place * PRINT_BYTES : (place + 1) * PRINT_BYTES]
        != other[place * PRINT_BYTES : (place + 1) * PRINT_BYTES]
    ]


def _print(value: Any) -> bytes:
    # A map's order is not part of what it says.
    plain = sorted(value.items()) if isinstance(value, Mapping) else value
    return hashlib.blake2b(repr(plain).encode(), digest_size=PRINT_BYTES).digest()


class FilterAgain:
    """The filter as these settings make it, with the time at which each answer was decided. Use in a ``with`` block."""

    def __init__(self, settings: Settings, lane: str) -> None:
        assert STAGE.effect is not Effect.PAYS
        self._runner, self._clock = asyncio.Runner(), FakeClock()
        nothing = cast("Any", None)
        ports = Ports(
            settings,
            lane,
            nothing,
            nothing,
            self._clock,
            nothing,
            Metrics(),
            Unarmed(),
            AsyncExitStack(),
            nothing,
        )
        self._processor = STAGE.build(ports)

    def __enter__(self) -> FilterAgain:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runner.close()

    def prints(self, completion: Completion, decided_us: int) -> bytes:
        """The digests of the answer that the filter makes of a completion at this time; empty where it makes none."""
        self._clock.current = datetime.fromtimestamp(decided_us / 1e6, UTC)
        incoming = Incoming(record=completion, meta=completion.meta, raw=b"", appended_at=self._clock.current)
        try:
            outputs = self._runner.run(self._again(incoming))
        except (RefusedError, HeadraceError):
            return b""
        answers = [one for one in outputs if isinstance(one, Answer)]
        return prints(answers[0]) if answers else b""

    async def _again(self, incoming: Incoming[Completion]) -> list[Any]:
        return list(await self._processor(incoming))
