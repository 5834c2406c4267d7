"""Claims the call of an item for its batch: its budgets hold the worst case, and the journal an open attempt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from processors.batchapi.entry import Claimed, Item, owner_of
from processors.clock import Clock
from processors.complete.payload import Payload, build_payload
from processors.complete.purse import Guard
from processors.complete.routes import Deployment
from processors.complete.target import target_of
from processors.complete.tasks import Tasks
from processors.control import ControlView
from processors.event import Incoming
from processors.journal import Busy, Granted, Journal
from processors.prices.batch import BatchPrice
from schemas.codec import Codec
from schemas.errors import DependencyDownError, NotYetError
from schemas.records import Enrichment

# Waiting for what other calls may spend of a budget: another batch may be luckier.
FULL_BUDGET_S = 60.0


@dataclass(frozen=True, slots=True)
class Returned:
    """The item is called as any other: then it is refused, ended or answered as they are."""


@dataclass(frozen=True, slots=True)
class Full:
    """The item waits for room in its budget."""


def at_batch_price(deployment: Deployment) -> Deployment:
    """The deployment with what its batches cost."""
    factor = Decimal(1) if deployment.batch is None else deployment.batch.price_factor
    return replace(deployment, price=BatchPrice(deployment.price, factor))


class Opener:
    """Claims calls. ``journal`` gives leases that outlast a batch: nobody renews them."""

    def __init__(
        self, journal: Journal, *, tasks: Tasks, guard: Guard, codec: Codec, clock: Clock, control: ControlView
    ) -> None:
        self._journal, self._tasks, self._guard = journal, tasks, guard
        self._codec, self._clock, self._control = codec, clock, control

    async def claim(self, item: Item, deployment: Deployment, batch_id: str) -> Claimed | Returned | Full:
        """Blocks for two transactions. Raises ``DependencyDownError``."""
        try:
            incoming = self.incoming(item)
            record, key = incoming.record, item.key
            route, offer = self._tasks.route(record), self._tasks.offer(incoming)
            payload = build_payload(record, deployment)
        except DependencyDownError:
            raise
        except Exception:
            # Its route is gone, or it can't be read: whoever makes calls says so. The others must not wait for it.
            return Returned()
        if self._control.cancelled(key.tenant, key.request_id):
            return Returned()
        now, priced = self._clock.now(), at_batch_price(deployment)
        target = target_of(
            route.name, priced, payload, record.request.sampling, control_offset=item.control_offset, at=now
        )
        try:
            reserved = await self._guard.of(incoming, key).reserve(replace(offer, target=target), record, route)
        except NotYetError:
            return Full()
        if isinstance(reserved, Busy):
            return Full()
        if reserved.refused is not None:
            return Returned()
        claim = await self._journal.claim(reserved, owner=owner_of(batch_id))
        if not isinstance(claim, Granted):
            return Returned()
        return Claimed(item.call_id, claim.attempt.attempt_id, claim.lease.epoch, claim.input)

    def payload(self, item: Item, deployment: Deployment) -> Payload:
        """What a claimed item's line asks for."""
        return build_payload(self.incoming(item).record, deployment)

    def incoming(self, item: Item) -> Incoming[Enrichment]:
        """The event that an item holds."""
        record = self._codec.decode(item.input, Enrichment)
        meta = record.meta
        assert meta.accepted_at is not None
        return Incoming(
            record=record,
            meta=meta,
            raw=item.input,
            appended_at=meta.accepted_at,
            control_offset=item.control_offset,
        )
