"""Works on the batches of one deployment: gathers, sends, looks, and stores what comes back."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace

from processors.batchapi.entry import Batch, BatchState, Claimed, Item
from processors.batchapi.lines import CANCELLED, LOST, refused, request_line, without_reply
from processors.batchapi.opening import FULL_BUDGET_S, Full, Returned
from processors.batchapi.parts import Parts
from processors.batchapi.provider import Seen
from processors.batchapi.results import Results
from processors.complete.routes import Deployment
from processors.journal.protocol import NOT_OFFERED
from schemas.errors import OutcomeUnknownError, PermanentProviderError, ProviderError, TransientProviderError

# Another worker may go on after so long without a word of this one; every step is asked for anew before it.
LEAD_S = 30.0
# A batch that was perhaps made is looked for so long: longer than an exchange with its provider takes.
LOOK_FOR_S = 150.0
# After so long a batch is asked to end, and after so long it is given up: its window is a day.
_OVERDUE_S, _GIVEN_UP_S = 25 * 3600.0, 25.9 * 3600.0
# The leases of a batch's calls: nobody renews them.
LEASE_S = 26 * 3600.0
_AT_A_TIME, _AT_ONCE = 50, 8
_LATE_AT_A_TIME = 100
# Counting reads every item that is not over.
_FIGURES_S = 15.0
# After an exchange that failed.
_PAUSE_S = 30.0
# Of files and batches alike: there are none at this endpoint.
_NONE_HERE = (404, 405, 501)


class LostLeadError(Exception):
    """Another worker may be at work on the deployment's batches."""


class Collector:
    """One deployment's batches in one lane. Every worker has one; the store lets one of them work at a time."""

    def __init__(
        self,
        lane: str,
        deployment: Deployment,
        parts: Parts,
        *,
        owner: str,
        look_for_s: float = LOOK_FOR_S,
        lead_s: float = LEAD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert deployment.batch is not None
        self.lane, self.deployment, self._policy = lane, deployment, deployment.batch
        self._parts, self._store, self._owner = parts, parts.store, owner
        self._look_for_s, self._lead_s, self._clock = look_for_s, lead_s, clock
        self._led_at = self._paused_until = self._told_at = float("-inf")
        self._results = Results(parts, deployment, self._policy)

    async def round(self) -> None:
        """Take every step that can be taken now. Blocks on the store and on exchanges with the provider.

        Raises ``DependencyDownError``. An exchange that fails is told to the observer, and tried again next time.
        """
        if not await self._store.lead(self.lane, self.deployment.name, self._owner, hold_s=self._lead_s):
            self._parts.observer.on_figures(self.deployment.name, None)
            return
        self._led_at = self._clock()
        leading = asyncio.ensure_future(self._keep_lead())
        try:
            for batch in await self._store.unfinished(self.lane, self.deployment.name):
                await self._try(batch)
            while await self._begin():
                pass
            for item in await self._store.late(self.lane, self.deployment.name, limit=_LATE_AT_A_TIME):
                await self._parts.booking.late(item, self.deployment)
                await self._store.move(item.call_id, was="withdrawn", now="done")
            if self._clock() - self._told_at >= _FIGURES_S:
                self._told_at = self._clock()
                figures = await self._store.figures(self.lane, self.deployment.name)
                self._parts.observer.on_figures(self.deployment.name, figures)
        except LostLeadError:
            return
        finally:
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)
            await self._store.wake(self.lane)

    async def _keep_lead(self) -> None:
        while True:
            await asyncio.sleep(self._lead_s / 3)
            since = self._clock()
            if not await self._store.lead(self.lane, self.deployment.name, self._owner, hold_s=self._lead_s):
                return
            self._led_at = since

    def _check_lead(self) -> None:
        """Raises ``LostLeadError`` where this worker was paused, or could not say that it goes on."""
        if self._clock() - self._led_at > self._lead_s * 0.8:
            raise LostLeadError

    async def _try(self, batch: Batch) -> None:
        if self._clock() < self._paused_until:
            return
        try:
            await self._advance(batch)
        except ProviderError as error:
            self._parts.observer.on_trouble(self.deployment.name, error.code)
            asked_s = error.retry_after_s if isinstance(error, TransientProviderError) else None
            self._paused_until = self._clock() + max(asked_s or 0.0, min(self._policy.poll_s, _PAUSE_S))
            if batch.state == "open":
                await self._store.looked(batch, error.code)

    async def _begin(self) -> bool:
        """Close a batch where there is enough for one, or the first has waited for long enough."""
        policy, held = self._policy, self._held()
        waiting = await self._store.waiting(self.lane, self.deployment.name, limit=policy.max_requests, but=held)
        full = waiting.items >= policy.max_requests or waiting.size >= policy.max_bytes
        if not waiting.items or not (full or waiting.oldest_s >= policy.max_wait_s):
            return False
        self._check_lead()
        batch_id = str(uuid.uuid4())
        taken = await self._store.begin(
            batch_id,
            self.lane,
            self.deployment.name,
            limit=policy.max_requests,
            max_bytes=policy.max_bytes,
            but=held,
        )
        if not taken:
            return False
        self._parts.failpoints.hit("after_batch_begun")
        await self._try(Batch(batch_id=batch_id, lane=self.lane, deployment=self.deployment.name, state="claiming"))
        return True

    def _held(self) -> list[str]:
        """What is paused: nothing of it goes into a batch."""
        paused = self._parts.control.pauses()
        return [f"{one.kind}/{one.name}" for one in paused if one.kind in ("tenant", "route")]

    async def _advance(self, batch: Batch) -> None:
        if batch.state == "claiming":
            batch = await self._claim(batch)
        if batch.state == "uploading":
            batch = await self._upload(batch)
        if batch.state == "uploaded":
            await self._create(batch)
        elif batch.state == "creating":
            await self._look_for(batch)
        elif batch.state == "open" and self._due(batch):
            await self._look(batch)

    async def _claim(self, batch: Batch) -> Batch:
        """Claim the call of every item that the batch took; those of an earlier try are its own already."""
        while items := await self._store.items(batch.batch_id, "taken", limit=_AT_A_TIME):
            self._check_lead()
            held = {one.call_id: one for one in await self._parts.calls.held(batch.batch_id, _ids(items))}
            room = asyncio.Semaphore(_AT_ONCE)
            outcomes = await asyncio.gather(*(self._claim_one(item, batch, held, room) for item in items))
            found = list(zip(items, outcomes, strict=True))
            self._parts.failpoints.hit("after_batch_claims")
            await self._store.claimed(batch.batch_id, [one for one in outcomes if isinstance(one, Claimed)])
            for kind, wait_s in ((Returned, None), (Full, FULL_BUDGET_S)):
                left = [item.call_id for item, one in found if isinstance(one, kind)]
                await self._store.release(batch.batch_id, left, wait_s=wait_s)
        sent = await self._store.items(batch.batch_id, "sent", limit=1)
        state: BatchState = "uploading" if sent else "ended"
        await self._store.advance(batch, state, provider_status="" if sent else "empty")
        return replace(batch, state=state)

    async def _claim_one(
        self, item: Item, batch: Batch, held: dict[str, Claimed], room: asyncio.Semaphore
    ) -> Claimed | Returned | Full:
        async with room:
            own = held.get(item.call_id)
            return own or await self._parts.opener.claim(item, self.deployment, batch.batch_id)

    async def _upload(self, batch: Batch) -> Batch:
        """Upload the file. Where nobody noted that it was, it is uploaded again."""
        lines, after = list[bytes](), ""
        while items := await self._store.items(batch.batch_id, "sent", limit=_AT_A_TIME, after=after):
            held = {one.call_id for one in await self._parts.calls.held(batch.batch_id, _ids(items))}
            lines += [
                request_line(one, self._parts.opener.payload(one, self.deployment))
                for one in items
                if one.call_id in held
            ]
            # Booked by a worker that died while it handed them back: they are called as every other.
            await self._results.let_go(batch, [one.call_id for one in items if one.call_id not in held])
            after = items[-1].call_id
            await asyncio.sleep(0)
        if not lines:
            # All of them ended while it waited, and were never sent.
            await self._results.fill(batch, without_reply(CANCELLED))
            await self._store.advance(batch, "ended", provider_status="empty")
            return replace(batch, state="ended")
        self._check_lead()
        try:
            file = await self._parts.provider.upload(self.deployment, _file_name(batch), b"".join(lines))
        except ProviderError as error:
            if not _refuses(error):
                raise
            await self._refuse(batch, error)
            return replace(batch, state="ended")
        self._parts.failpoints.hit("after_batch_upload")
        await self._store.advance(batch, "uploaded", provider_file=file)
        return replace(batch, state="uploaded", provider_file=file)

    async def _create(self, batch: Batch) -> None:
        """Have the batch made. From the row on until its id is stored nobody knows whether it was."""
        assert batch.provider_file is not None
        self._check_lead()
        await self._store.advance(batch, "creating")
        self._parts.failpoints.hit("before_batch_create")
        self._check_lead()
        try:
            seen = await self._parts.provider.create(self.deployment, batch.provider_file, batch.batch_id)
        except ProviderError as error:
            if _refuses(error):
                await self._refuse(batch, error)
                return
            if not isinstance(error, OutcomeUnknownError) and (error.http_status or 0) < 500:
                # Refused for now, or never sent.
                await self._store.advance(batch, "uploaded", provider_status=error.code)
            raise
        self._parts.failpoints.hit("after_batch_create")
        await self._opened(batch, seen)

    async def _look_for(self, batch: Batch) -> None:
        """Find the batch that was perhaps made. One that its provider does not know is lost."""
        try:
            seen = await self._parts.provider.find(self.deployment, batch.batch_id)
        except ProviderError as error:
            if error.http_status not in _NONE_HERE:
                raise
            seen = None
        if seen is not None:
            await self._opened(batch, seen)
        elif batch.since_creating_s >= self._look_for_s:
            await self._results.fill(batch, without_reply(LOST))
            await self._store.advance(batch, "lost", provider_status=LOST)
            self._parts.observer.on_batch(self.deployment.name, "lost")

    async def _opened(self, batch: Batch, seen: Seen) -> None:
        await self._store.advance(batch, "open", provider_batch=seen.provider_batch, provider_status=seen.status)
        self._parts.observer.on_batch(self.deployment.name, "made")

    async def _refuse(self, batch: Batch, error: ProviderError) -> None:
        """Nothing was paid. Every item is told the error that its provider had for the whole.

        Where the provider has no Batch API, its items are called as every other.
        """
        offered = error.http_status not in _NONE_HERE
        if not offered:
            # Whoever goes on after this worker sees what of it is not handed back yet, and nothing else.
            await self._store.advance(batch, "uploading", provider_status=error.code)
            await self._results.hand_back(batch, NOT_OFFERED)
        await self._results.fill(batch, refused(error.http_status or 400, error.code))
        await self._store.advance(batch, "ended", provider_status=error.code)
        self._parts.observer.on_batch(self.deployment.name, "refused" if offered else "not-offered")
        if batch.provider_file is not None:
            await self._results.discard(Seen(provider_batch="", status="", input_file=batch.provider_file))

    def _due(self, batch: Batch) -> bool:
        return batch.since_looked_s is None or batch.since_looked_s >= self._policy.poll_s

    async def _look(self, batch: Batch) -> None:
        provider, overdue = self._parts.provider, batch.since_open_s >= _OVERDUE_S
        assert batch.provider_batch is not None
        try:
            seen = await provider.look(self.deployment, batch.provider_batch)
            if overdue and not seen.over:
                await provider.cancel(self.deployment, batch.provider_batch)
        except ProviderError:
            if batch.since_open_s < _GIVEN_UP_S:
                raise
            seen = Seen(provider_batch=batch.provider_batch, status=LOST)
        await self._store.looked(batch, seen.status)
        if seen.over:
            await self._results.collect(batch, seen, self._check_lead)
            self._parts.failpoints.hit("after_batch_results")
            await self._store.advance(batch, "ended", provider_status=seen.status)
            self._parts.observer.on_batch(self.deployment.name, "ended")
            await self._results.discard(seen)
        elif batch.since_open_s >= _GIVEN_UP_S:
            await self._results.fill(batch, without_reply(LOST))
            await self._store.advance(batch, "lost", provider_status=seen.status)
            self._parts.observer.on_batch(self.deployment.name, "lost")


def _refuses(error: ProviderError) -> bool:
    """Whether no batch will come of it, however often it is asked."""
    return isinstance(error, PermanentProviderError) or error.http_status in _NONE_HERE


def _ids(items: Sequence[Item]) -> list[str]:
    return [item.call_id for item in items]


def _file_name(batch: Batch) -> str:
    return f"headrace-{batch.batch_id}.jsonl"
