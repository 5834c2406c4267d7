"""The journal in memory, under the same rules: for unit tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import timedelta

from processors.clock import Clock, FakeClock
from processors.journal.entry import (
    NONE,
    AttemptRow,
    CallFailure,
    CallKey,
    CallRow,
    CallState,
    Claim,
    Done,
    Ended,
    Expired,
    Granted,
    Lease,
    Offer,
    Settled,
    Target,
)
from processors.journal.protocol import (
    End,
    Take,
    closed,
    decide,
    is_expired,
    is_repeated,
    lose,
    open_attempts,
    settled_late,
    stored,
    unheard,
)
from schemas.errors import DependencyDownError, FencedError


class MemoryJournal:
    """A ``Journal`` that a process keeps for itself. ``down`` makes every call fail as if Postgres were away."""

    def __init__(self, clock: Clock | None = None, *, lease_s: float = 15.0) -> None:
        self.clock = clock or FakeClock()
        self.lease_s = lease_s
        self.down = False
        self.calls: dict[str, CallRow] = {}
        self.attempts: dict[str, list[AttemptRow]] = {}

    async def claim(self, offer: Offer, *, owner: str) -> Claim:
        taken = self._decide(offer)
        if not isinstance(taken, tuple):
            return taken
        call, rows, decision = taken
        lease = Lease(key=offer.key, owner=owner, epoch=decision.epoch)
        self.calls[offer.key.call_id] = replace(call, owner=owner, epoch=decision.epoch)
        attempt = self._open(lease, offer.target, decision.ordinal)
        return Granted(
            lease=lease,
            attempt=attempt,
            earlier=tuple(rows[:-1]),
            input=call.input,
            input_hash=call.input_hash,
            kept=call.kept,
            over=decision.over,
        )

    async def serve(self, offer: Offer, make: Callable[[tuple[AttemptRow, ...]], bytes]) -> Claim:
        taken = self._decide(offer)
        if not isinstance(taken, tuple):
            return taken
        call, rows, decision = taken
        served = replace(
            call, state="done", result=make(tuple(rows)), epoch=decision.epoch, updated_at=self.clock.now()
        )
        self.calls[offer.key.call_id] = replace(served, owner=None, lease_until=None, kept=None)
        outcome = stored(served, rows)
        assert outcome is not None
        return outcome

    async def finish(
        self,
        lease: Lease,
        attempt_id: str,
        settled: Settled,
        result: bytes,
        *,
        others: Mapping[str, Settled] = NONE,
    ) -> tuple[AttemptRow, ...]:
        self._reach()
        call = self.calls[lease.key.call_id]
        if call.state == "done" and call.epoch == lease.epoch:
            return tuple(self.attempts[lease.key.call_id])
        self._close(lease, {**others, attempt_id: settled})
        done = replace(call, state="done", result=result, updated_at=self.clock.now(), kept=None)
        self.calls[lease.key.call_id] = done
        return tuple(self.attempts[lease.key.call_id])

    async def fail_attempt(
        self,
        lease: Lease,
        attempt_id: str,
        settled: Settled,
        failure: CallFailure | None = None,
        *,
        others: Mapping[str, Settled] = NONE,
        keep: bytes | None = None,
    ) -> tuple[AttemptRow, ...]:
        self._reach()
        call, rows = self.calls[lease.key.call_id], self.attempts[lease.key.call_id]
        if is_repeated(call, rows, lease, attempt_id, settled):
            return tuple(rows)
        self._close(lease, {**others, attempt_id: settled})
        if keep is not None:
            self.calls[lease.key.call_id] = replace(self.calls[lease.key.call_id], kept=keep)
        if failure is not None:
            self._end(self.calls[lease.key.call_id], failure)
        return tuple(self.attempts[lease.key.call_id])

    async def end(self, lease: Lease, failure: CallFailure) -> None:
        self._reach()
        self._end(self._owned(lease), failure)

    async def next_attempt(self, lease: Lease, target: Target, *, beside: str | None = None) -> AttemptRow:
        self._reach()
        self._owned(lease)
        rows = self.attempts[lease.key.call_id]
        known = unheard(rows, beside)
        if known is None:
            return self._open(lease, target, len(rows))
        self._extend(lease)
        return known

    async def renew(self, owner: str, leases: Collection[Lease]) -> frozenset[Lease]:
        self._reach()
        held = frozenset(lease for lease in leases if lease.owner == owner and self._holds(lease))
        for lease in held:
            self._extend(lease)
        return held

    async def attempts_of(self, key: CallKey) -> tuple[AttemptRow, ...]:
        self._reach()
        return tuple(self.attempts.get(key.call_id, ()))

    async def outcome_of(self, key: CallKey) -> Done | Ended | None:
        self._reach()
        call = self.calls.get(key.call_id)
        return None if call is None else stored(call, self.attempts[key.call_id])

    async def kept(self, key: CallKey) -> bytes | None:
        self._reach()
        call = self.calls.get(key.call_id)
        return None if call is None else call.kept

    async def earlier_result(self, key: CallKey, input_hash: str) -> Done | None:
        self._reach()
        if key.call_id in self.calls:
            return None
        found = (call for call in self.calls.values() if replace(call.key, run=key.run) == key)
        same = [call for call in found if call.state == "done" and call.input_hash == input_hash]
        first = min(same, key=lambda call: call.updated_at, default=None)
        known = None if first is None else stored(first, self.attempts[first.key.call_id])
        return known if isinstance(known, Done) else None

    def _reach(self) -> None:
        if self.down:
            raise DependencyDownError("postgres", "the test took it away")

    def _decide(self, offer: Offer) -> tuple[CallRow, list[AttemptRow], Take] | Claim:
        """What becomes of the call; where it may be taken, its open attempt is booked as lost."""
        self._reach()
        now, call_id = self.clock.now(), offer.key.call_id
        if call_id not in self.calls and is_expired(offer, now):
            return Expired()
        call = self.calls.get(call_id) or self._insert(offer)
        rows = self.attempts[call_id]
        decision = decide(call, rows, offer, now)
        if not isinstance(decision, Take | End):
            return decision
        for lost in open_attempts(rows):
            rows[lost.ordinal] = lose(lost, now)
        if isinstance(decision, End):
            return self._end(call, decision.failure)
        return call, rows, decision

    def _insert(self, offer: Offer) -> CallRow:
        self.attempts[offer.key.call_id] = []
        return CallRow(
            key=offer.key,
            input_hash=offer.input_hash,
            input=offer.input,
            state="reserved",
            owner=None,
            epoch=0,
            lease_until=None,
            result=None,
            failure=None,
            updated_at=self.clock.now(),
        )

    def _holds(self, lease: Lease) -> bool:
        call = self.calls[lease.key.call_id]
        return call.state == "calling" and call.epoch == lease.epoch

    def _owned(self, lease: Lease) -> CallRow:
        if not self._holds(lease):
            raise FencedError(f"call {lease.key.call_id} has a later owner than epoch {lease.epoch}")
        return self.calls[lease.key.call_id]

    def _extend(self, lease: Lease) -> None:
        call_id, until = lease.key.call_id, self.clock.now() + timedelta(seconds=self.lease_s)
        self.calls[call_id] = replace(self.calls[call_id], state="calling", lease_until=until)

    def _open(self, lease: Lease, target: Target, ordinal: int) -> AttemptRow:
        attempt = AttemptRow(
            attempt_id=lease.key.attempt_id(ordinal),
            ordinal=ordinal,
            epoch=lease.epoch,
            target=target,
            state="calling",
            started_at=self.clock.now(),
        )
        self.attempts[lease.key.call_id].append(attempt)
        self._extend(lease)
        return attempt

    def _close(self, lease: Lease, outcomes: Mapping[str, Settled]) -> None:
        rows, now = self.attempts[lease.key.call_id], self.clock.now()
        book = closed if self._holds(lease) else settled_late
        self.attempts[lease.key.call_id] = list(book(rows, outcomes, now)[0])
        self._owned(lease)

    def _end(self, call: CallRow, failure: CallFailure) -> Claim:
        state: CallState = "unknown" if failure.kind == "indeterminate" else "failed"
        ended = replace(call, state=state, failure=failure, updated_at=self.clock.now(), kept=None)
        self.calls[call.key.call_id] = ended
        outcome = stored(ended, self.attempts[call.key.call_id])
        assert outcome is not None
        return outcome
