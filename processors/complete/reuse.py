"""The events of a request that is served by a response which another run of it has paid for.

Everything comes from the journal, so that a redelivery gives the same bytes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from decimal import Decimal

from processors.complete import STAGE
from processors.complete.records import labels_of
from processors.event import Incoming
from processors.journal import CallKey, Done
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


def reused_completion(incoming: Incoming[Enrichment], earlier: Done, original: Completion) -> Completion:
    """The recorded completion as one of this run; what an earlier reuse avoided is avoided again."""
    served = served_again(incoming, original, meta=_meta(incoming, earlier), served_by=SERVED_BY)
    return replace(served, avoided_cost_usd=original.cost_usd or original.avoided_cost_usd)


def cost_of_reuse(incoming: Incoming[Enrichment], key: CallKey, earlier: Done) -> Cost:
    """The cost event of a call that was not made: amount 0, and what it would have cost."""
    last = earlier.attempts[-1]
    attempt_id = key.attempt_id(0)
    return Cost(
        meta=replace(_meta(incoming, earlier), event_id=attempt_id),
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
    meta = replace(incoming.child(STAGE, original.meta.stage_version), control_offset=original.meta.control_offset)
    completion = served_again(incoming, original, meta=meta, served_by=SERVED_BY)
    completion = replace(completion, avoided_cost_usd=original.cost_usd or original.avoided_cost_usd)
    return [cost_of_sample(incoming, key, completion, at=earlier.ended_at), completion]


def cost_of_sample(
    incoming: Incoming[Enrichment], key: CallKey, completion: Completion, *, at: datetime | None
) -> Cost:
    """The cost event of a call that was not made, as another run's result is used: amount 0, and what that cost."""
    attempt_id = key.attempt_id(0)
    meta = replace(
        incoming.child(STAGE, completion.meta.stage_version),
        event_id=attempt_id,
        control_offset=completion.meta.control_offset,
    )
    return Cost(
        meta=meta,
        attempt_id=attempt_id,
        purpose=key.purpose,
        route=incoming.record.admission.route,
        deployment=completion.deployment,
        provider=completion.provider,
        model=completion.model,
        state="done",
        amount_usd=Decimal(0),
        avoided_cost_usd=completion.cost_usd or completion.avoided_cost_usd,
        served_by=SERVED_BY,
        source_event_id=completion.source_event_id or completion.meta.event_id,
        **labels_of(incoming),
        incurred_at=at,
    )


def _meta(incoming: Incoming[Enrichment], earlier: Done) -> Meta:
    """What was decided is what was decided at the call, whatever this delivery knows."""
    target = earlier.attempts[-1].target
    return replace(incoming.child(STAGE, target.stage_version), control_offset=target.control_offset)
