"""What one call is made of: its task, the attempt that is open, and the one that may follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from processors.complete.cancellation import Cancellation
from processors.complete.cascade import Checks, Standing
from processors.complete.judging import Judge, accept_all
from processors.complete.payload import Payload
from processors.complete.retry import Go, Later
from processors.complete.routes import Deployment, Route
from processors.event import Incoming
from processors.journal import AttemptRow, CallFailure, Settled
from processors.model.port import ModelReply
from processors.routing import Seat
from schemas.records import Enrichment, Hedge


# Encodes the event that a reply becomes, given the attempts with the open one at the end, and the call's hedge.
class Encode(Protocol):
    def __call__(
        self, reply: ModelReply, attempts: tuple[AttemptRow, ...], settled: Settled, *, hedge: Hedge | None = None
    ) -> bytes: ...


# Encodes the event that answers without a model, after the error of this code.
Resort = Callable[[tuple[AttemptRow, ...], Settled, str], bytes]
# Encodes the event of a reply that was kept, given the attempts with the one at the end that ``settled`` closes.
Stand = Callable[[Standing, tuple[AttemptRow, ...], Settled], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a granted call needs besides the grant. ``ends`` is the monotonic end of the stage's attempt.

    ``stored`` is the event as the journal has it; ``streamed``: its text goes to ``deltas`` too. ``payload`` is what
    the first attempt sends at ``seat``; ``judge`` says what becomes of each reply. ``resort`` is the event that answers
    without a model, where the route has one. ``checks`` are those of a route with a cascade, and ``stand`` the event of
    a reply that they kept.
    """

    route: Route
    payload: Payload
    stored: Incoming[Enrichment]
    streamed: bool
    cancellation: Cancellation
    ends: float
    encode: Encode
    # None: it can be sent nowhere.
    seat: Seat | None
    judge: Judge = field(default=accept_all)
    resort: Resort | None = None
    checks: Checks | None = None
    stand: Stand | None = None

    @property
    def has_last_word(self) -> bool:
        """Whether there is an answer though no model gives one any more."""
        return self.resort is not None or (self.checks is not None and self.checks.standing is not None)


@dataclass(frozen=True, slots=True)
class Sending:
    """What the open attempt sends, and where."""

    seat: Seat
    payload: Payload

    @property
    def deployment(self) -> Deployment:
        """With the key that it is called with."""
        return self.seat.deployment


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt follows, with this payload; ``otherwise`` ends the call when it can't be made."""

    go: Go | Later
    payload: Payload
    otherwise: CallFailure


@dataclass(frozen=True, slots=True)
class Left:
    """How long another attempt may be waited for in the stage, and how long the request is still wanted, in seconds."""

    s: float
    ttl_s: float

    @property
    def expired(self) -> bool:
        """Whether the request's ttl is over."""
        return self.ttl_s <= 0
