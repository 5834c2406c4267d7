"""The events of a request that is served by a response which another run of it has paid for.

Everything comes from the journal, so that a redelivery gives the same bytes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from processors.complete.records import as_decided, labels_of
from processors.event import Incoming
from processors.journal import CallKey, Done, Target
from processors.prices.version import version_of
from schemas.records import Completion, Cost, Enrichment, Meta, Usage

SERVED_BY = "journal"


def served_again(incoming: Incoming[Enrichment], original: Completion, *, meta: Meta, served_by: str) -> Completion:
    """A recorded completion as another request's or run's: no tokens, attempts and cost; the original's is avoided."""
    return replace(
        original,
        meta=meta,
        request=incoming.record.request,
        admission=incoming.record.admission,
        grounding=incoming.record.grounding,
        usage=Usage(),
        cost_usd=Decimal(0),
        avoided_cost_usd=original.cost_usd,
        attempts=(),
        served_by=served_by,
        source_event_id=original.meta.event_id,
        duration_ms=None,
        first_token_ms=None,
        # No deltas were published for it: the filter writes its chunks.
        streamed=False,
    )


def reused_completion(incoming: Incoming[Enrichment], original: Completion, decided: Meta | Target) -> Completion:
    """The recorded completion as one of this run; what an earlier reuse avoided is avoided again."""
    served = served_again(incoming, original, meta=as_decided(incoming, decided), served_by=SERVED_BY)
    return replace(served, avoided_cost_usd=original.cost_usd or original.avoided_cost_usd)


def call_again(
    incoming: Incoming[Enrichment], key: CallKey, earlier: Done, original: Completion
) -> list[Cost | Completion]:
    """The events of a further run of a request that a call of its own answered: its result is used again."""
    completion = reused_completion(incoming, original, earlier.attempts[-1].target)
    return [cost_of_reuse(incoming, key, earlier), completion]


def cost_of_reuse(incoming: Incoming[Enrichment], key: CallKey, earlier: Done) -> Cost:
    """The cost event of a call that was not made: amount 0, and what it would have cost."""
    last = earlier.attempts[-1]
    attempt_id = key.attempt_id(0)
    return Cost(
        meta=replace(as_decided(incoming, last.target), event_id=attempt_id),
        attempt_id=attempt_id,
        purpose=key.purpose,
        route=last.target.route,
        deployment=last.target.deployment,
        provider=last.target.provider,
        model=last.target.model,
        state="done",
        amount_usd=Decimal(0),
        avoided_cost_usd=sum((row.cost_usd for row in earlier.attempts if row.cost_usd is not None), Decimal(0)),
        price_source=last.target.price_source,
        price_version=version_of(last.target.price_source),
        account=last.target.account,
        served_by=SERVED_BY,
        source_event_id=last.attempt_id,
        **labels_of(incoming),
        incurred_at=last.ended_at,
    )


def fan_out_again(
    incoming: Incoming[Enrichment], key: CallKey, earlier: Done, original: Completion
) -> list[Cost | Completion]:
    """The events of a further run of a request that was fanned out: what was made of its samples is used again."""
    completion = reused_completion(incoming, original, original.meta)
    cost = cost_of_served(incoming, key, completion, attempt_id=key.attempt_id(0), at=earlier.ended_at)
    return [cost, completion]


def cost_of_sample(
    incoming: Incoming[Enrichment], key: CallKey, completion: Completion, *, at: datetime | None
) -> Cost:
    """The cost event of a sample whose call was not made, as another run's ``completion`` is used for it."""
    served = replace(
        completion,
        avoided_cost_usd=completion.cost_usd or completion.avoided_cost_usd,
        served_by=SERVED_BY,
        source_event_id=completion.source_event_id or completion.meta.event_id,
    )
    return cost_of_served(incoming, key, served, attempt_id=key.attempt_id(0), at=at)


def cost_of_served(
    incoming: Incoming[Enrichment], key: CallKey, served: Completion, *, attempt_id: str, at: datetime | None
) -> Cost:
    """The cost event of a call that was not made, as another's result was served: amount 0, and what that avoided."""
    return Cost(
        meta=replace(as_decided(incoming, served.meta), event_id=attempt_id),
        attempt_id=attempt_id,
        purpose=key.purpose,
        route=incoming.record.admission.route,
        deployment=served.deployment,
        provider=served.provider,
        model=served.model,
        state="done",
        amount_usd=Decimal(0),
        avoided_cost_usd=served.avoided_cost_usd,
        served_by=served.served_by,
        source_event_id=served.source_event_id,
        **labels_of(incoming),
        incurred_at=at,
    )
