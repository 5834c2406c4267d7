"""The completion and the cost of a request that is answered by another's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from processors.complete import STAGE, VERSION
from processors.complete.records import attempt_of
from processors.event import Incoming
from processors.journal.entry import AttemptRow, CallKey, Done
from schemas.ids import derive_id
from schemas.records import Completion, Cost, Enrichment, Usage

EXACT, SEMANTIC, JOURNAL = "cache-exact", "cache-semantic", "journal"
CACHES = (EXACT, SEMANTIC)
# Cut off, or withheld by the provider: the next call may do better.
_NO_ANSWER = ("length", "content_filter")


def cacheable(completion: Completion) -> bool:
    """Whether other requests may be answered by it: a whole answer of a model."""
    said = completion.tool_calls_json is not None or (completion.text is not None and completion.text.inline)
    whole = completion.finish_reason not in _NO_ANSWER and completion.refusal is None
    return bool(said) and whole and completion.served_by == "model"


def cached_completion(
    incoming: Incoming[Enrichment],
    original: Completion,
    lost: Sequence[AttemptRow],
    *,
    served_by: str,
    input_hash: str,
) -> Completion:
    """The recorded completion as this request's: no tokens, no cost; the original's cost is avoided.

    ``lost`` are attempts of its own whose worker was lost before: what they may have cost stays.
    """
    attempts = tuple(attempt_of(row) for row in lost)
    return replace(
        original,
        meta=incoming.child(STAGE, VERSION),
        request=incoming.record.request,
        admission=incoming.record.admission,
        grounding=incoming.record.grounding,
        usage=Usage(),
        cost_usd=sum((attempt.cost_usd or Decimal(0) for attempt in attempts), Decimal(0)),
        avoided_cost_usd=original.cost_usd,
        estimated=any(attempt.estimated for attempt in attempts),
        attempts=attempts,
        served_by=served_by,
        source_event_id=original.meta.event_id,
        input_hash=input_hash,
        duration_ms=None,
        first_token_ms=None,
        # No deltas were published for this request: the filter writes its chunks.
        streamed=False,
    )


def hit_again(
    incoming: Incoming[Enrichment], key: CallKey, earlier: Done, original: Completion
) -> list[Cost | Completion]:
    """The events of a further run of a request whose first run was answered from a cache: that answer is used again."""
    completion = replace(
        cached_completion(incoming, original, (), served_by=JOURNAL, input_hash=original.input_hash),
        meta=replace(incoming.child(STAGE, original.meta.stage_version), control_offset=original.meta.control_offset),
        avoided_cost_usd=original.avoided_cost_usd,
    )
    return [cost_of_hit(incoming, key, earlier, completion), completion]


def cost_of_hit(incoming: Incoming[Enrichment], key: CallKey, done: Done, completion: Completion) -> Cost:
    """The cost event of the call that was not made: amount 0, and what it would have cost."""
    request, admission = incoming.record.request, incoming.record.admission
    attempt_id = derive_id(key.call_id, "cache")
    meta = replace(
        incoming.child(STAGE, completion.meta.stage_version),
        event_id=attempt_id,
        control_offset=completion.meta.control_offset,
    )
    return Cost(
        meta=meta,
        attempt_id=attempt_id,
        purpose=key.purpose,
        route=admission.route,
        deployment=completion.deployment,
        provider=completion.provider,
        model=completion.model,
        state="done",
        amount_usd=Decimal(0),
        avoided_cost_usd=completion.avoided_cost_usd,
        served_by=completion.served_by,
        source_event_id=completion.source_event_id,
        prompt_version=incoming.record.grounding.prompt_version,
        team=request.team,
        user=request.user,
        session=request.session,
        feature=request.feature,
        tier=admission.tier,
        arm=admission.arm,
        incurred_at=done.ended_at,
    )
