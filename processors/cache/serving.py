"""The completion and the cost of a request that is answered by another's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from processors.complete import STAGE, VERSION
from processors.complete.records import as_decided, attempt_of
from processors.complete.reuse import SERVED_BY, cost_of_served, served_again
from processors.event import Incoming
from processors.journal.entry import AttemptRow, CallKey, Done
from schemas.ids import derive_id
from schemas.records import Completion, Cost, Enrichment

EXACT, SEMANTIC = "cache-exact", "cache-semantic"
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
        served_again(incoming, original, meta=incoming.child(STAGE, VERSION), served_by=served_by),
        cost_usd=sum((attempt.cost_usd or Decimal(0) for attempt in attempts), Decimal(0)),
        estimated=any(attempt.estimated for attempt in attempts),
        attempts=attempts,
        input_hash=input_hash,
    )


def hit_again(
    incoming: Incoming[Enrichment], key: CallKey, earlier: Done, original: Completion
) -> list[Cost | Completion]:
    """The events of a further run of a request whose first run was answered from a cache: that answer is used again."""
    completion = replace(
        cached_completion(incoming, original, (), served_by=SERVED_BY, input_hash=original.input_hash),
        meta=as_decided(incoming, original.meta),
        avoided_cost_usd=original.avoided_cost_usd,
    )
    return [cost_of_hit(incoming, key, earlier, completion), completion]


def cost_of_hit(incoming: Incoming[Enrichment], key: CallKey, done: Done, completion: Completion) -> Cost:
    """The cost event of the call that was not made: amount 0, and what it would have cost."""
    return cost_of_served(incoming, key, completion, attempt_id=derive_id(key.call_id, "cache"), at=done.ended_at)
