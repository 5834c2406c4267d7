"""Keeps a worker's leases alive, and knows when not to trust them any more."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from processors.journal.entry import Lease
from processors.journal.port import Journal
from schemas.errors import DependencyDownError

_LOG = logging.getLogger(__name__)
# A lease is not trusted for its last moments: the statement that granted it took time, and so does sending a call.
_MARGIN = 0.2


class LeaseKeeper:
    """Renews every open lease of a worker in one statement, three times a lease.

    ``owner`` names one life of one worker: it must be new with every start, or a restarted worker would take its
    predecessor's leases for its own.
    """

    def __init__(self, journal: Journal, *, owner: str, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """``then`` is awaited after every renewal in the background."""
        self.owner = owner
        self._then = then
        self._journal = journal
        self._renew_every_s = journal.lease_s / 3
        self._trusted_for_s = journal.lease_s * (1 - _MARGIN)
        self._renewed: dict[Lease, float] = {}
        self._regaining = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def holding(self, lease: Lease, *, since: float) -> Iterator[None]:
        """Renew ``lease`` inside the block. ``since`` is the monotonic time just before the lease was asked for."""
        self._renewed[lease] = since
        try:
            yield
        finally:
            self._renewed.pop(lease, None)

    def refreshed(self, lease: Lease, *, since: float) -> None:
        """The lease was renewed by another statement, asked for at the monotonic time ``since``."""
        if lease in self._renewed:
            self._renewed[lease] = since

    def trusts(self, lease: Lease) -> bool:
        """Whether the lease still runs, by this worker's monotonic clock. False after a pause or a long outage."""
        renewed = self._renewed.get(lease)
        return renewed is not None and time.monotonic() - renewed < self._trusted_for_s

    async def regains(self, lease: Lease) -> bool:
        """Whether the lease is to be trusted; after a pause the journal is asked, which renews it.

        Blocks for a statement then. False where another worker has taken the call over, and where nobody can tell.
        """
        if self.trusts(lease):
            return True
        # Whoever waits meanwhile has the answer of the first one.
        async with self._regaining:
            if not self.trusts(lease):
                with suppress(DependencyDownError):
                    await self.renew()
        return self.trusts(lease)

    async def renew(self) -> None:
        """Renew once. A lease with a later owner is forgotten. Raises ``DependencyDownError``."""
        leases = tuple(self._renewed)
        if not leases:
            return
        since = time.monotonic()
        held = await self._journal.renew(self.owner, leases)
        for lease in leases:
            if lease in held:
                self.refreshed(lease, since=since)
            else:
                self._renewed.pop(lease, None)

    def start(self) -> None:
        """Begin to renew in the background. Does not block."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="lease-keeper")

    async def stop(self) -> None:
        """Stop renewing; what is still open runs out by itself."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every_s)
            try:
                await self.renew()
                if self._then is not None:
                    await self._then()
            except DependencyDownError:
                # The leases run out by the monotonic clock unless Postgres is back in time.
                continue
            except Exception as error:
                # Whatever it was, the next renewal matters more; without the message, which may hold a value.
                _LOG.error("lease renewal failed: %s", type(error).__name__)
