"""What a collector works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from processors.batchapi.booking import Booking
from processors.batchapi.calls import BatchCalls
from processors.batchapi.observer import BatchObserver, NullBatchObserver
from processors.batchapi.opening import Opener
from processors.batchapi.port import BatchStore
from processors.batchapi.provider import BatchProvider
from processors.control import ControlView
from processors.failpoints import Failpoints, Unarmed
from processors.journal import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Ports and helpers; one set for all collectors of a worker. ``journal`` gives leases that outlast a batch."""

    store: BatchStore
    calls: BatchCalls
    journal: Journal
    provider: BatchProvider
    opener: Opener
    booking: Booking
    control: ControlView
    failpoints: Failpoints = field(default_factory=Unarmed)
    observer: BatchObserver = field(default_factory=NullBatchObserver)
