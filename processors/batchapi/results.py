"""Stores what a batch that is over has brought, and gives every other item the reason why it has no reply."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal

from processors.batchapi.calls import lease_of
from processors.batchapi.entry import Batch, Item
from processors.batchapi.lines import CANCELLED, EXPIRED, FAILED, MISSING, custom_id, lines_of, without_reply
from processors.batchapi.parts import Parts
from processors.batchapi.policy import BatchPolicy
from processors.batchapi.provider import Seen
from processors.complete.routes import Deployment
from processors.journal import Settled
from schemas.errors import FencedError, ProviderError

_AT_A_TIME = 100
# By what a batch ended as: its requests without a reply were not worked on. One that completed has told of all.
_REASONS = {"expired": EXPIRED, "cancelled": CANCELLED, "failed": FAILED}


class Results:
    """Of one deployment. What is stored twice is the same: a batch may be read again from the beginning."""

    def __init__(self, parts: Parts, deployment: Deployment, policy: BatchPolicy) -> None:
        self._parts, self._store = parts, parts.store
        self._deployment, self._policy = deployment, policy

    async def collect(self, batch: Batch, seen: Seen, check: Callable[[], None]) -> None:
        """Store the replies of both files, then what is to be said of the items that have none.

        ``check`` raises where this worker may not go on. Raises ``ProviderError`` and ``DependencyDownError``; what was
        stored by then stays.
        """
        for file in filter(None, (seen.output_file, seen.error_file)):
            replies: dict[str, bytes] = {}
            async for line in lines_of(self._parts.provider.download(self._deployment, file)):
                whose = custom_id(line)
                if whose is not None:
                    replies[whose] = line
                if len(replies) >= _AT_A_TIME:
                    check()
                    await self._answer(batch, replies)
                    replies = {}
            await self._answer(batch, replies)
        reason = _REASONS.get(seen.status, MISSING)
        if self._policy.again == "batch" and reason != MISSING:
            await self.hand_back(batch, reason, wait_s=0.0)
        await self.fill(batch, without_reply(reason))

    async def fill(self, batch: Batch, reply: bytes) -> None:
        """Give every item without a reply this one."""
        for state in ("sent", "withdrawn"):
            after = ""
            while items := await self._store.items(batch.batch_id, state, limit=_AT_A_TIME, after=after):
                await self._store.answer(batch.batch_id, {one.call_id: reply for one in items if one.reply is None})
                after = items[-1].call_id

    async def discard(self, seen: Seen) -> None:
        """Delete the batch's files at its provider: they hold prompts and answers. What can't be deleted stays."""
        for file in filter(None, (seen.input_file, seen.output_file, seen.error_file)):
            with suppress(ProviderError):
                await self._parts.provider.discard(self._deployment, file)

    async def _answer(self, batch: Batch, replies: dict[str, bytes]) -> None:
        ours = {call_id: line for call_id, line in replies.items() if _is_id(call_id)}
        if ours:
            await self._store.answer(batch.batch_id, ours)
            self._parts.failpoints.hit("after_batch_replies")

    async def hand_back(self, batch: Batch, reason: str, *, wait_s: float | None = None) -> None:
        """Book what was not worked on at nothing: its items are called as every other, or wait for another batch.

        An item whose attempts are used up is not claimed by the next one: its call ends then.
        """
        while items := await self._store.items(batch.batch_id, "sent", limit=_AT_A_TIME):
            for item in items:
                await self._book(item, reason)
            await self.let_go(batch, _ids(items), wait_s=wait_s)

    async def let_go(self, batch: Batch, call_ids: Sequence[str], *, wait_s: float | None = None) -> None:
        """Let others have these calls, whose attempts are booked: now, or another batch after ``wait_s``."""
        if call_ids:
            await self._parts.calls.release(batch.batch_id, call_ids)
            await self._store.release(batch.batch_id, call_ids, wait_s=wait_s)

    async def _book(self, item: Item, reason: str) -> None:
        settled = Settled(state="failed", cost_usd=Decimal(0), error_class="transient-provider", error_code=reason)
        assert item.attempt_id is not None
        with suppress(FencedError):
            await self._parts.journal.fail_attempt(lease_of(item), item.attempt_id, settled)


def _ids(items: Sequence[Item]) -> list[str]:
    return [item.call_id for item in items]


def _is_id(text: str) -> bool:
    """Whether it is written as our ids are: a provider may write anything."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
