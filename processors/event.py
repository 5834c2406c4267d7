"""What a processor takes and gives: one typed event in, a list of typed events out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from schemas.ids import event_id
from schemas.record import Record
from schemas.records import Meta, Timing

RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming(Generic[RecordT]):
    """One delivered event.

    ``meta.accepted_at`` is always set: for a request it is ``appended_at``. ``timings`` are those of the stages
    before, which travel in headers so that an event's bytes stay the same when it is delivered again.
    """

    record: RecordT
    meta: Meta
    raw: bytes
    appended_at: datetime
    control_offset: int = -1
    timings: tuple[Timing, ...] = ()
    # Partition and offset of the event in its topic; for a dead letter sent once more, those of its first delivery.
    position: tuple[int, int] = (-1, -1)
    # When an operator sent this request through its stage once more: its time to live begins anew then.
    redriven_at: datetime | None = None

    def child(self, stage: str, stage_version: str, ordinal: int = 0) -> Meta:
        """The meta of the ``ordinal``-th event that ``stage`` derives from this one."""
        meta = self.meta
        return Meta(
            event_id=event_id(
                tenant=meta.tenant,
                lane=meta.lane,
                run=meta.run,
                stage=stage,
                causation_id=meta.event_id,
                ordinal=ordinal,
            ),
            request_id=meta.request_id,
            tenant=meta.tenant,
            lane=meta.lane,
            run=meta.run,
            causation_id=meta.event_id,
            stage=stage,
            stage_version=stage_version,
            accepted_at=meta.accepted_at,
            control_offset=self.control_offset,
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """An output that was encoded and stored before: its bytes are published as they are."""

    record: Record
    value: bytes


Output = Record | Recorded


# What a stage does with one event. Returns every output in the order of publication; an ``Answer`` among them is
# made final by the runner. Raises from ``schemas.errors`` only: ``RefusedError`` (the runner ends the request with a
# typed answer), ``DependencyDownError`` (the runner waits and calls again), ``PoisonError`` (dead letter).
Processor = Callable[[Incoming[Any]], Awaitable[Sequence[Output]]]
