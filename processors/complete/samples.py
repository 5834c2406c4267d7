"""The samples of a request that was fanned out, and the one completion that is made of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from processors.complete import STAGE, VERSION
from processors.complete.aggregate import Chosen, Reply
from processors.complete.policies import FanOutPolicy
from processors.complete.records import attempt_of
from processors.event import Incoming
from processors.journal import AttemptRow, CallFailure, CallKey
from schemas.records import Attempt, Completion, Enrichment, FanOut, FanOutSample, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One of the calls. ``failure``: why it has no completion. ``reused``: another run of the request has paid for it.

    ``rows`` are its attempts, also where it has not ended.
    """

    number: int
    key: CallKey
    rows: tuple[AttemptRow, ...] = ()
    completion: Completion | None = None
    failure: CallFailure | None = None

    @property
    def reused(self) -> bool:
        """Whether its result is another run's."""
        return self.completion is not None and not self.rows

    @property
    def cost_usd(self) -> Decimal:
        """What its attempts cost here."""
        return sum((row.cost_usd or Decimal(0) for row in self.rows), Decimal(0))


def completion_of_samples(
    incoming: Incoming[Enrichment],
    policy: FanOutPolicy,
    samples: Sequence[Sample],
    answered: Sequence[Reply],
    chosen: Chosen,
    *,
    input_hash: str,
) -> Completion:
    """The request's completion; its tokens are those of all answered samples, its cost is that of every attempt."""
    first, enrichment = chosen.replies[0].completion, incoming.record
    booked = attempts_of(samples)
    reused = [one.completion for one in samples if one.completion is not None and one.reused]
    durations = [one.completion.duration_ms for one in answered if one.completion.duration_ms is not None]
    completion = replace(
        first,
        meta=incoming.child(STAGE, VERSION),
        request=enrichment.request,
        admission=enrichment.admission,
        grounding=enrichment.grounding,
        usage=_usage([one.completion.usage for one in answered]),
        cost_usd=sum((one.cost_usd for one in samples), Decimal(0)),
        avoided_cost_usd=sum((one.cost_usd for one in reused), Decimal(0)),
        estimated=any(one.estimated for one in booked),
        attempts=booked,
        input_hash=input_hash,
        duration_ms=max(durations, default=None),
        first_token_ms=None,
        streamed=False,
        # Each sample's own completion, in the journal, tells of its second call.
        hedge=None,
        fan_out=record_of_samples(policy, samples, answered, chosen),
    )
    if chosen.text is None:
        return completion
    cut = any(one.completion.finish_reason == "length" for one in chosen.replies)
    text = replace(first.text, inline=chosen.text) if first.text is not None else None
    return replace(completion, text=text, logprobs_json=None, finish_reason="length" if cut else first.finish_reason)


def record_of_samples(
    policy: FanOutPolicy, samples: Sequence[Sample], answered: Sequence[Reply], chosen: Chosen | None
) -> FanOut:
    """What the completion says of its samples; ``chosen`` None: too few were answered."""
    used = set() if chosen is None else {one.number for one in chosen.replies}
    scores = {one.number: one.score for one in answered}
    return FanOut(
        aggregate=policy.aggregate,
        field=policy.field,
        scorer=policy.scorer if policy.aggregate == "best" else None,
        needed=policy.needed,
        answered=sum(one.completion is not None for one in samples),
        chosen=None if chosen is None or chosen.text is not None else chosen.replies[0].number,
        agreement=None if chosen is None else chosen.agreement,
        samples=tuple(
            FanOutSample(
                number=one.number,
                call_id=one.key.call_id,
                outcome="failed" if one.completion is None else "answered",
                code=None if one.failure is None else one.failure.code,
                deployment=_place(one)[0],
                model=_place(one)[1],
                finish_reason="" if one.completion is None else one.completion.finish_reason,
                used=one.number in used,
                group=None if chosen is None else chosen.groups.get(one.number),
                score=scores.get(one.number),
                attempts=tuple(row.attempt_id for row in one.rows),
                cost_usd=one.cost_usd,
            )
            for one in samples
        ),
    )


def _place(one: Sample) -> tuple[str, str]:
    if one.completion is not None:
        return one.completion.deployment, one.completion.model
    return (one.rows[-1].target.deployment, one.rows[-1].target.model) if one.rows else ("", "")


def attempts_of(samples: Sequence[Sample]) -> tuple[Attempt, ...]:
    """The closed attempts of the samples, as events show them."""
    return tuple(
        replace(attempt_of(row), purpose=one.key.purpose)
        for one in samples
        for row in one.rows
        if row.state != "calling"
    )


def _usage(usages: Sequence[Usage | None]) -> Usage:
    known = [one for one in usages if one is not None]
    details: Counter[str] = Counter()
    for one in known:
        details.update(one.details)
    return Usage(
        details=dict(details),
        prompt_tokens=sum(one.prompt_tokens for one in known),
        completion_tokens=sum(one.completion_tokens for one in known),
        cached_prompt_tokens=sum(one.cached_prompt_tokens for one in known),
        cache_write_tokens=sum(one.cache_write_tokens for one in known),
        reasoning_tokens=sum(one.reasoning_tokens for one in known),
        estimated=any(one.estimated for one in known),
    )
