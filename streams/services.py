"""What all stages of a process share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from processors.admit.in_flight import InFlight
from processors.clock import Clock
from processors.control import ControlView
from processors.deferred import DeferredStore
from processors.failpoints import Failpoints
from processors.finality import Finality
from processors.redrive import Redrives
from schemas.codec import Codec
from streams.claims import Claims
from streams.gate import Gate
from streams.metrics import Metrics
from streams.producer import Producer


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The process's connections and clocks; ``crash`` ends the process, and its supervisor starts it again."""

    prefix: str
    lane: str
    codec: Codec
    producer: Producer
    finality: Finality
    redrives: Redrives
    deferred: DeferredStore
    gate: Gate
    clock: Clock
    control: ControlView
    metrics: Metrics
    failpoints: Failpoints
    crash: Callable[[BaseException], None]
    # Log what events say: personal data. Off unless an operator switches it on.
    log_content: bool = False
    # Those with topics of their own: what is published for them goes there too.
    tenants: frozenset[str] = frozenset()
    # Tenants that may have so many requests in the stream, and where they are counted.
    caps: Mapping[str, int] = field(default_factory=dict)
    in_flight: InFlight | None = None
    # Without it an event that is too large for its topic is refused, and references stay.
    claims: Claims | None = None
