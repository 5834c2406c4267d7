"""Where items and batches are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from processors.batchapi.entry import Batch, BatchState, Claimed, Figures, Item, ItemState, Waiting
from processors.journal.entry import CallKey


class BatchStore(Protocol):
    """Every method is one transaction, durable when it returns; raises ``DependencyDownError`` when the store is away.

    Changes of state hold only from the states that they name: done again, they change nothing.
    """

    async def item(self, call_id: str) -> Item | None:
        """The item of a call."""
        ...

    async def add(self, item: Item) -> None:
        """Keep an item, waiting. One that is there already stays as it is."""
        ...

    async def move(self, call_id: str, *, was: ItemState, now: ItemState) -> bool:
        """Change an item's state, where it is ``was``. ``done`` drops its input and reply.

        Those who follow an item come back when it is ``done`` or ``withdrawn``.
        """
        ...

    async def follow(self, leader: str, key: CallKey, event_id: str) -> bool:
        """Note that a call waits for that of ``leader``; false where no batch will answer that one any more."""
        ...

    async def followed(self, call_id: str) -> str | None:
        """Whom the call waited for, which is forgotten with this."""
        ...

    async def lead(self, lane: str, deployment: str, owner: str, *, hold_s: float) -> bool:
        """Whether ``owner`` may work on the deployment's batches for ``hold_s`` from now. Asked again, it goes on."""
        ...

    async def waiting(self, lane: str, deployment: str, *, limit: int, but: Collection[str]) -> Waiting:
        """What may go into a batch now, but for the items of these routes and tenants (``route/x``, ``tenant/x``)."""
        ...

    async def begin(
        self, batch_id: str, lane: str, deployment: str, *, limit: int, max_bytes: int, but: Collection[str]
    ) -> int:
        """Make a batch of the oldest items that may go into one; how many it took. None: there is no batch."""
        ...

    async def unfinished(self, lane: str, deployment: str) -> Sequence[Batch]:
        """Its batches that are not over, oldest first."""
        ...

    async def items(self, batch_id: str, state: ItemState, *, limit: int, after: str = "") -> Sequence[Item]:
        """A batch's items in this state in the order of their call ids, from behind ``after``."""
        ...

    async def claimed(self, batch_id: str, calls: Sequence[Claimed]) -> None:
        """These of the batch's items are claimed: ``taken`` → ``sent``."""
        ...

    async def release(self, batch_id: str, call_ids: Sequence[str], *, wait_s: float | None) -> None:
        """Take items out of their batch: to be called as every other call, or to wait for another one so long."""
        ...

    async def advance(
        self,
        batch: Batch,
        state: BatchState,
        *,
        provider_file: str | None = None,
        provider_batch: str | None = None,
        provider_status: str | None = None,
    ) -> None:
        """Note a batch's next state and what is known of it; ``creating``, ``open`` and ``looked`` times are now."""
        ...

    async def looked(self, batch: Batch, status: str) -> None:
        """Note that the provider was asked, and what it said."""
        ...

    async def answer(self, batch_id: str, replies: Mapping[str, bytes]) -> int:
        """Store replies by call id, where there is none yet; how many are new. Withdrawn items stay so."""
        ...

    async def late(self, lane: str, deployment: str, *, limit: int) -> Sequence[Item]:
        """Withdrawn items whose reply is here and not booked."""
        ...

    async def wake(self, lane: str) -> int:
        """Let the events come back that were set aside for items which are answered or returned; how many."""
        ...

    async def figures(self, lane: str, deployment: str) -> Figures:
        """What there is. For reports: reads every item that is not over."""
        ...
