"""The events that a call ends in: its completion, its costs, the answer when it failed.

Everything here but the reply itself comes from the journal's rows and from the input as the journal has it, so that
whoever emits the events again, later and elsewhere, emits the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal

from processors.answers import final_answer
from processors.complete import STAGE, VERSION
from processors.event import Incoming
from processors.journal import AttemptRow, CallFailure, CallKey, Ended, Settled, Target
from processors.journal.protocol import as_booked
from processors.model.port import ModelReply
from processors.prices.version import version_of
from processors.spending.payer import Labels, labels
from schemas.ids import derive_id
from schemas.records import Answer, Attempt, Completion, Cost, Enrichment, Failure, Meta, Text, Usage

# Why a cost event corrects an attempt: its outcome came in late.
LATE = "late"


def completion_of(
    incoming: Incoming[Enrichment],
    reply: ModelReply,
    attempts: Sequence[AttemptRow],
    settled: Settled,
    *,
    input_hash: str,
    by: AttemptRow | None = None,
) -> Completion:
    """The completion; the last of ``attempts`` is the open one, which ``settled`` is about to close.

    ``by``: the earlier attempt that brought the reply, where the last one did not.
    """
    *earlier, last = attempts
    wrote = (last if by is None else by).target
    brought = settled if by is None else by
    assert brought.usage is not None
    booked = in_order((*(attempt_of(row) for row in earlier), _attempt(last, settled)))
    enrichment = incoming.record
    return Completion(
        meta=incoming.child(STAGE, VERSION),
        request=enrichment.request,
        admission=enrichment.admission,
        grounding=enrichment.grounding,
        text=_text(reply.text),
        tool_calls_json=_text(reply.tool_calls_json),
        refusal=_text(reply.refusal),
        finish_reason=reply.finish_reason,
        model=reply.model or wrote.model,
        provider=wrote.provider,
        deployment=wrote.deployment,
        response_id=reply.response_id,
        system_fingerprint=reply.fingerprint,
        logprobs_json=_text(reply.logprobs_json),
        usage=brought.usage,
        cost_usd=sum((attempt.cost_usd or Decimal(0) for attempt in booked), Decimal(0)),
        estimated=any(attempt.estimated for attempt in booked),
        attempts=booked,
        input_hash=input_hash,
        duration_ms=brought.duration_ms,
        first_token_ms=brought.first_token_ms,
    )


def in_order(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """As they were sent; of a call that was hedged, the one that decided is not always the last."""
    return tuple(sorted(attempts, key=lambda one: one.ordinal))


def attempt_of(row: AttemptRow) -> Attempt:
    """A closed attempt as events show it."""
    return _attempt(as_booked(row), as_booked(row))


def costs_of(incoming: Incoming[Enrichment], key: CallKey, rows: Sequence[AttemptRow]) -> list[Cost]:
    """A cost event for every closed attempt, and one more that corrects an attempt whose outcome came in late."""
    costs = []
    for row in rows:
        if row.state != "calling":
            costs.append(_cost(incoming, key, as_booked(row), event_id=row.attempt_id))
        if row.late_at is not None:
            costs.append(correction_of(incoming, key, row))
    return costs


def failed_answer(
    incoming: Incoming[Enrichment], ended: Ended, key: CallKey, *, streamed: bool, before: Sequence[Attempt] = ()
) -> Answer:
    """The final answer of a request whose call failed or came too late.

    ``streamed``: its route streams. ``before``: attempts of its other calls.
    """
    failure = ended.failure
    return final_answer(
        incoming,
        stage=STAGE,
        stage_version=VERSION,
        status="expired" if failure.kind == "expired" else "failed",
        failure=as_failure(failure),
        now=ended.ended_at,
        attempts=[*before, *(replace(attempt_of(row), purpose=key.purpose) for row in ended.attempts)],
        streamed=streamed,
    )


def as_failure(failure: CallFailure) -> Failure:
    """The failure as an answer shows it."""
    return Failure(
        code=failure.code, error_class=failure.error_class, message=failure.message, retryable=failure.retryable
    )


def _attempt(row: AttemptRow, outcome: AttemptRow | Settled) -> Attempt:
    return Attempt(
        attempt_id=row.attempt_id,
        purpose="completion",
        ordinal=row.ordinal,
        deployment=row.target.deployment,
        provider=row.target.provider,
        model=row.target.model,
        response_id=outcome.response_id,
        state=outcome.state,
        error_class=outcome.error_class,
        error_code=outcome.error_code,
        http_status=outcome.http_status,
        started_at=row.started_at,
        duration_ms=outcome.duration_ms,
        first_token_ms=outcome.first_token_ms,
        usage=outcome.usage,
        cost_usd=outcome.cost_usd,
        estimated=outcome.estimated,
        upper_bound=outcome.upper_bound,
    )


def labels_of(incoming: Incoming[Enrichment]) -> Labels:
    """The labels of a request's cost events."""
    record = incoming.record
    return labels(record.request, record.admission, prompt_version=record.grounding.prompt_version)


def as_decided(incoming: Incoming[Enrichment], by: Meta | Target) -> Meta:
    """The meta of an event of a call that was made before: what was decided then, whatever this delivery knows."""
    return replace(incoming.child(STAGE, by.stage_version), control_offset=by.control_offset)


def _cost(incoming: Incoming[Enrichment], key: CallKey, row: AttemptRow, *, event_id: str) -> Cost:
    target = row.target
    return Cost(
        meta=replace(as_decided(incoming, target), event_id=event_id),
        attempt_id=row.attempt_id,
        purpose=key.purpose,
        ordinal=row.ordinal,
        route=target.route,
        deployment=target.deployment,
        provider=target.provider,
        model=target.model,
        state=row.state,
        usage=row.usage or Usage(),
        amount_usd=row.cost_usd or Decimal(0),
        estimated=row.estimated,
        upper_bound=row.upper_bound,
        price_source=target.price_source,
        price_version=version_of(target.price_source),
        error_code=row.error_code,
        response_id=row.response_id,
        account=target.account,
        **labels_of(incoming),
        incurred_at=row.ended_at,
    )


def correction_of(incoming: Incoming[Enrichment], key: CallKey, row: AttemptRow) -> Cost:
    """What the attempt really cost less what was booked for it: the sum of the two events is the truth."""
    event_id = derive_id(row.attempt_id, "late")
    truth = replace(row, ended_at=row.late_at)
    cost = _cost(incoming, key, truth, event_id=event_id)
    return replace(cost, amount_usd=cost.amount_usd - row.target.bound.usd, correction=LATE)


def _text(value: str | None) -> Text | None:
    return None if value is None else Text(inline=value)
