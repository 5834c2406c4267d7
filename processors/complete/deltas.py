"""Deltas: what is published of a text while the model writes it, what closes it, and where both go.

An id comes from its attempt's id and the delta's number, and everything but a live delta's stretch and time from the
journal: whoever says again that an attempt broke off or how a stream ended says it in the same bytes.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

from processors.complete import STAGE
from processors.event import Incoming
from processors.journal import AttemptRow, Ended
from schemas.ids import derive_id
from schemas.records import Admission, Completion, Delta, Enrichment, Meta, Request, Text

# The number of the delta that closes a stream: no live delta of any attempt has a higher one.
CLOSING = 2**31 - 1
# The number of the delta that says that an attempt broke off and another one may follow.
ABORTED = CLOSING - 1


class DeltaSink(Protocol):
    """Where live deltas go. Those of one request have to arrive in the order in which they were sent."""

    async def send(self, delta: Delta) -> None:
        """Publish one delta and wait until it is acknowledged.

        Raises ``DependencyDownError`` when that can't be had, with the delta perhaps written.
        """
        ...


class FakeDeltaSink:
    """Keeps what was sent. ``failures`` are raised first, one a send; sends wait while ``hold`` is clear."""

    def __init__(self) -> None:
        self.sent: list[Delta] = []
        self.failures: list[Exception] = []
        self.hold: asyncio.Event | None = None

    async def send(self, delta: Delta) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if self.hold is not None:
            await self.hold.wait()
        self.sent.append(delta)


def live_delta(
    incoming: Incoming[Enrichment], row: AttemptRow, *, sequence: int, start: int, text: str, elapsed_ms: float
) -> Delta:
    """A stretch of the attempt's text from the code point ``start`` on. Sent once, by the attempt's only worker."""
    return replace(
        _of_attempt(incoming, row, sequence),
        start_char=start,
        text=Text(inline=text),
        elapsed_ms=elapsed_ms,
    )


def aborted_delta(incoming: Incoming[Enrichment], row: AttemptRow) -> Delta:
    """The attempt broke off, and another one may follow."""
    return replace(_of_attempt(incoming, row, ABORTED), aborted=True)


def failed_delta(incoming: Incoming[Enrichment], ended: Ended) -> Delta:
    """The attempt broke off, and none will follow; only for a call with attempts."""
    closing = _of_attempt(incoming, ended.attempts[-1], CLOSING)
    return replace(closing, aborted=True, final=True, finish_reason=ended.failure.code)


def closing_delta(completion: Completion) -> Delta:
    """The whole text of the attempt that answered, so that a stream is whole whatever was lost of it."""
    last = completion.attempts[-1]
    delta = _delta(completion.meta, completion.request, completion.admission, last.attempt_id, last.ordinal, CLOSING)
    return replace(
        delta,
        text=completion.text,
        final=True,
        finish_reason=completion.finish_reason,
        elapsed_ms=completion.duration_ms,
    )


def _of_attempt(incoming: Incoming[Enrichment], row: AttemptRow, sequence: int) -> Delta:
    record, target = incoming.record, row.target
    meta = replace(incoming.child(STAGE, target.stage_version), control_offset=target.control_offset)
    return _delta(meta, record.request, record.admission, row.attempt_id, row.ordinal, sequence)


def _delta(meta: Meta, request: Request, admission: Admission, attempt_id: str, ordinal: int, sequence: int) -> Delta:
    return Delta(
        meta=replace(meta, event_id=derive_id(attempt_id, "delta", sequence)),
        attempt=ordinal,
        sequence=sequence,
        user=request.user,
        session=request.session,
        route=admission.route,
        feature=request.feature,
        team=request.team,
    )
