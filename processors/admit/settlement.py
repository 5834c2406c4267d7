"""Token limits after the call: what was charged as an estimate is replaced by what was used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from processors.admit.buckets import Buckets, Draw, Rate
from processors.admit.limits import LimitPolicy, Step
from processors.event import Incoming, Output, Processor, Recorded
from schemas.errors import HeadraceError, OversizedError, PermanentProviderError, PoisonError, RefusedError
from schemas.records import Admitted, Cost, Enrichment

# What ends a request before any call of it, and what ends it in a stage that makes none.
_UNCALLED = (RefusedError, PermanentProviderError)
_WITHOUT_CALLS = (*_UNCALLED, PoisonError, OversizedError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """The tokens that a request used. ``steps``: the token limits that it was charged at admission, by estimate."""

    tenant: str
    lane: str
    request_id: str
    steps: tuple[Step, ...]
    tokens: int


class Settlement(Protocol):
    """Settles each request once, however often and by how many workers it is asked to."""

    async def settle(self, used: Used) -> None:
        """Charge what a request used beyond its estimates, or give back what it did not use.

        Nothing is done for a request that was not charged. Blocks for a transaction that those who ask at the same
        time share; raises ``DependencyDownError``.
        """
        ...


def differences(settled: Iterable[Used]) -> list[Draw]:
    """What the buckets are owed or given back by these requests together; each bucket once."""
    by_bucket: dict[str, tuple[Rate, int]] = {}
    for used in settled:
        for step in used.steps:
            _, owed = by_bucket.get(step.bucket, (step.rate, 0))
            by_bucket[step.bucket] = (step.rate, owed + used.tokens - step.amount)
    return [
        Draw(bucket=bucket, rate=rate, must=max(0, owed), returned=float(max(0, -owed)))
        for bucket, (rate, owed) in by_bucket.items()
        if owed
    ]


class Settling:
    """A processor whose requests' token limits are settled when it ends them, before its outputs are published.

    ``calls``: its outputs tell what was used; else it ends requests by its errors alone, and all is given back.

    Raises what the processor raises, and ``DependencyDownError``.
    """

    def __init__(self, processor: Processor, policy: LimitPolicy, settlement: Settlement, *, calls: bool) -> None:
        self._processor, self._policy, self._settlement, self._calls = processor, policy, settlement, calls

    async def __call__(self, incoming: Incoming[Admitted | Enrichment]) -> Sequence[Output]:
        try:
            outputs = await self._processor(incoming)
        except HeadraceError as error:
            # After anything else it comes again, or nobody knows what was spent on it.
            if isinstance(error, _UNCALLED if self._calls else _WITHOUT_CALLS) or error.outputs:
                await self._settle(incoming, error.outputs)
            raise
        if self._calls:
            await self._settle(incoming, outputs)
        return outputs

    async def _settle(self, incoming: Incoming[Admitted | Enrichment], outputs: Sequence[Any]) -> None:
        meta, record = incoming.meta, incoming.record
        admission = record.admission
        # A run of its own passed no limits.
        steps = (
            ()
            if meta.run
            else self._policy.steps(record.request, lane=meta.lane, tier=admission.tier, route=admission.route)
        )
        counted = tuple(step for step in steps if step.name.endswith(".tokens"))
        if counted:
            tokens = tokens_used(outputs, estimate=counted[0].amount)
            await self._settlement.settle(
                Used(tenant=meta.tenant, lane=meta.lane, request_id=meta.request_id, steps=counted, tokens=tokens)
            )


def tokens_used(outputs: Sequence[Any], *, estimate: int) -> int:
    """The tokens of a request's attempts: as counted, none of what was refused, and the estimate for each attempt of
    which nobody knows what it used.
    """
    records = [one.record if isinstance(one, Recorded) else one for one in outputs]
    tokens = 0
    for cost in records:
        if not isinstance(cost, Cost) or cost.correction or cost.served_by != "model":
            continue
        counted = cost.usage.prompt_tokens + cost.usage.completion_tokens
        tokens += estimate if cost.upper_bound else counted
    return tokens


@dataclass(slots=True)
class FakeSettlement:
    """Settlement in memory over buckets, with the same rules. Every request counts as charged."""

    buckets: Buckets
    settled: dict[tuple[str, str, str], Used] = field(default_factory=dict)

    async def settle(self, used: Used) -> None:
        key = (used.tenant, used.lane, used.request_id)
        if key not in self.settled:
            draws = differences([used])
            if draws:
                await self.buckets.draw(draws)
            self.settled[key] = used
