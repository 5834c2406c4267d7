"""What a stage asks of the journal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from processors.journal.entry import (
    NONE,
    AttemptRow,
    CallFailure,
    CallKey,
    Claim,
    Done,
    Ended,
    Lease,
    Offer,
    Settled,
    Target,
)


class Journal(Protocol):
    """Books paid calls so that a response that reached us is never bought again.

    Every method is one transaction, durable when it returns, and raises ``DependencyDownError`` while the storage is
    away. Those that take a lease raise ``FencedError`` when a later owner has the call; the outcome they brought is
    then booked on its attempt as late, and discarded.
    """

    lease_s: float

    async def claim(self, offer: Offer, *, owner: str) -> Claim:
        """Take the call, or say what has become of it. Waits for the row's lock only, never for a lease."""
        ...

    async def serve(self, offer: Offer, make: Callable[[tuple[AttemptRow, ...]], bytes]) -> Claim:
        """Book a result that another call paid for, and make no call: ``Done`` with it.

        What the call has ended with before stays, ``Busy`` is another claim's lease, ``Ended`` and ``Expired`` are as
        in ``claim``; never ``Granted``. ``make`` gives the bytes from the attempts whose workers were lost; it may be
        called twice and must not block.
        """
        ...

    async def finish(
        self,
        lease: Lease,
        attempt_id: str,
        settled: Settled,
        result: bytes,
        *,
        others: Mapping[str, Settled] = NONE,
    ) -> tuple[AttemptRow, ...]:
        """Book the result. Calling it again with the same lease is harmless. Returns all attempts.

        ``others`` are booked with it, by their ids: what was open beside the attempt. One that is not there is none.
        """
        ...

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
        """Book a failed or unknown attempt; with ``failure`` the call ends with it. Returns all attempts.

        ``others`` as for ``finish``. ``keep``: what the attempt brought, for whoever has the call later, in place of
        what was kept before; it is dropped when the call ends.
        """
        ...

    async def end(self, lease: Lease, failure: CallFailure) -> None:
        """End a call that has no open attempt."""
        ...

    async def next_attempt(self, lease: Lease, target: Target, *, beside: str | None = None) -> AttemptRow:
        """Commit a further attempt within the lease, and renew the lease. It may be sent when this returns.

        ``beside``: the id of the attempt that was sent and is still open; without it there is none.
        """
        ...

    async def renew(self, owner: str, leases: Collection[Lease]) -> frozenset[Lease]:
        """Renew the leases in one statement; returns those that are still ours."""
        ...

    async def attempts_of(self, key: CallKey) -> tuple[AttemptRow, ...]:
        """Every attempt of a call, in order; empty when nothing was spent on it."""
        ...

    async def kept(self, key: CallKey) -> bytes | None:
        """What an open call's owner kept of its attempts. Takes no lock."""
        ...

    async def earlier_result(self, key: CallKey, input_hash: str) -> Done | None:
        """The first result that another run of the same request has for the same input, to be used instead of a call.

        ``None`` where there is none, and where a call under ``key`` was begun: it goes on. Takes no lock.
        """
        ...

    async def outcome_of(self, key: CallKey) -> Done | Ended | None:
        """What a call ended with; ``None`` while it is open, or was never made. Takes no lock."""
        ...
