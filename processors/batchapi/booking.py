"""What an item's reply cost, where nobody waits for its text any more."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from processors.batchapi.calls import lease_of
from processors.batchapi.entry import Item
from processors.batchapi.opening import Opener, at_batch_price
from processors.batchapi.replies import reply_of
from processors.clock import Clock
from processors.complete.routes import Deployment
from processors.complete.settling import brought, failed
from processors.journal import AttemptRow, CallFailure, Journal, Lease, Settled
from schemas.errors import FencedError, ProviderError


class Booking:
    """Books replies of requests that ended before."""

    def __init__(self, journal: Journal, opener: Opener, clock: Clock) -> None:
        self._journal, self._opener, self._clock = journal, opener, clock

    async def late(self, item: Item, deployment: Deployment) -> None:
        """Book the reply on an attempt that was booked as unknown. Again, it changes nothing.

        Blocks on the journal; raises ``DependencyDownError``.
        """
        rows = await self._journal.attempts_of(item.key)
        row = next((one for one in rows if one.attempt_id == item.attempt_id), None)
        if row is not None and row.state == "unknown" and row.late_at is None:
            settled = await self.truth(item, row, deployment)
            with suppress(FencedError):
                await self._journal.fail_attempt(lease_of(item), row.attempt_id, settled)

    async def refuse(
        self, item: Item, row: AttemptRow, lease: Lease, deployment: Deployment, failure: CallFailure
    ) -> None:
        """End the call with ``failure``, at what its reply cost. Raises ``DependencyDownError``, ``FencedError``."""
        settled = await self.truth(item, row, deployment)
        told = replace(settled, state="failed", error_class=failure.error_class, error_code=failure.code)
        await self._journal.fail_attempt(lease, row.attempt_id, told, failure)

    async def truth(self, item: Item, row: AttemptRow, deployment: Deployment) -> Settled:
        """How an attempt is booked that had this reply."""
        priced = at_batch_price(deployment)
        try:
            reply = await reply_of(item, priced)
        except ProviderError as error:
            return failed(error, row, duration_ms=0.0)
        record = self._opener.incoming(item).record
        estimate, payload = record.grounding.prompt_tokens_estimate, self._opener.payload(item, priced)
        return brought(reply, priced, payload, estimate=estimate, at=self._clock.now())
