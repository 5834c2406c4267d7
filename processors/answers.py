"""Final answers: the ones that end a request early, and copies of one that is final already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from processors.event import Incoming
from processors.public import gone_out
from processors.text import question
from schemas.errors import HeadraceError, PoisonError, ProviderError, RefusedError
from schemas.ids import request_event_id
from schemas.record import Record
from schemas.records import (
    Admission,
    Admitted,
    Answer,
    Attempt,
    Completion,
    Enrichment,
    Failure,
    Grounding,
    Meta,
    Request,
    Text,
    Verdict,
)

# An answer that ends a request early is not one of the stage's ordinary outputs, which are numbered from 0: when a
# redelivery ends otherwise than the first delivery did, the two events must not share an id.
FINAL_ORDINAL = 9_999
# Refusals that depend on the moment.
_WORTH_SENDING_AGAIN = frozenset({"duplicate_in_flight", "expired", "rate_limited", "budget_exceeded"})
# A request that was refused may hold anything: what is longer than this is not carried into its answer, which has to
# fit the topic's size limit together with the rest.
_QUESTION_CHARS = 10_000
_LABEL_CHARS = 256
_METADATA_CHARS = 16_384


def failure_of(error: HeadraceError) -> Failure:
    """The failure that an error ends a request with. Errors hold our own words only, so the message is theirs."""
    code = error.code if isinstance(error, RefusedError | ProviderError) else _snake(type(error).__name__)
    return Failure(
        code=code,
        error_class=error.error_class,
        message=str(error),
        field=error.field if isinstance(error, RefusedError) else None,
        retryable=error.retryable or code in _WORTH_SENDING_AGAIN,
        retry_after_s=error.retry_after_s if isinstance(error, RefusedError) else None,
    )


def final_answer(
    incoming: Incoming[Any],
    *,
    stage: str,
    stage_version: str,
    status: str,
    failure: Failure,
    now: datetime,
    ordinal: int = FINAL_ORDINAL,
    verdicts: Sequence[Verdict] = (),
    attempts: Sequence[Attempt] = (),
    policy_version: str = "",
    streamed: bool = True,
) -> Answer:
    """The answer that ends a request as ``rejected``, ``blocked``, ``failed`` or ``expired``.

    Filled from whatever the event knows: a ``Request``, ``Admitted``, ``Enrichment`` or ``Completion``. ``attempts``
    are those made after the event was written (none for most stages); their cost is the answer's. Admission's verdicts
    come first; that text of it was public comes last, unless its attempts were not ``streamed``. Raises
    ``PoisonError`` for an event that belongs to no request.
    """
    if status == "answered":
        raise ValueError("final_answer ends a request without a text; the filter writes answered ones")
    known = known_fields(incoming)
    if attempts:
        known["attempts"] = tuple(attempts)
        known["cost_usd"] = sum((a.cost_usd for a in attempts if a.cost_usd is not None), Decimal(0))
        known["estimated"] = any(a.estimated for a in attempts)
        known["deployment"], known["model"] = attempts[-1].deployment, attempts[-1].model
    public = gone_out(incoming.record, attempts if streamed else (), stage=stage)
    known["verdicts"] = (*known.get("verdicts", ()), *verdicts, *public)
    known["policy_version"] = policy_version or known.get("policy_version", "")
    return Answer(
        meta=_meta(incoming, stage, stage_version, ordinal),
        status=status,
        failure=failure,
        decided_at=now,
        **known,
    )


def copy_answer(original: Answer, incoming: Incoming[Any], *, stage: str, stage_version: str, now: datetime) -> Answer:
    """The answer to a request that repeats another one's idempotency key and body: a copy of the original.

    It is whole, with the text, citations, passages and versions of the original, whatever its status; but no call was
    made for it, so tokens, attempts and cost are zero, the cost of the original is avoided, and it was served by a
    recorded response. User, session, labels and key are those of the repeating request.
    """
    own = known_fields(incoming)
    kept = ("team", "user", "session", "feature", "tier", "priority", "arm", "metadata", "idempotency_key", "timings")
    blank = Answer(meta=original.meta, status=original.status)
    return replace(
        original,
        **{name: own.get(name, getattr(blank, name)) for name in kept},
        meta=_meta(incoming, stage, stage_version, FINAL_ORDINAL),
        revision=0,
        supersedes=None,
        duplicate_of=original.duplicate_of or original.meta.request_id,
        usage=blank.usage,
        attempts=(),
        cost_usd=Decimal(0),
        avoided_cost_usd=original.cost_usd or original.avoided_cost_usd,
        served_by="none" if original.served_by == "none" else "journal",
        source_event_id=original.meta.event_id,
        decided_at=now,
    )


def known_fields(incoming: Incoming[Any]) -> dict[str, Any]:
    """The fields of an ``Answer`` that the event knows, by name; all but meta, status, text and failure."""
    record: Record = incoming.record
    if isinstance(record, Request):
        return {**_asked(_bounded(record)), "timings": incoming.timings}
    if not isinstance(record, Admitted | Enrichment | Completion):
        raise PoisonError(f"{record.AVRO_NAME} belongs to no request: it can't be answered")
    known = {**_asked(record.request), **_admitted(record.admission), "timings": incoming.timings}
    if isinstance(record, Enrichment | Completion):
        known |= _grounded(record.grounding)
    if isinstance(record, Completion):
        known |= _completed(record)
    return known


def _asked(request: Request) -> dict[str, Any]:
    return {
        "team": request.team,
        "user": request.user,
        "session": request.session,
        "feature": request.feature,
        "priority": request.priority,
        "idempotency_key": request.idempotency_key,
        "metadata": request.metadata,
        "question": question(request),
        "response_format": request.response_format.type,
        "route": request.route or "",
        "model": request.model or "",
    }


def _admitted(admission: Admission) -> dict[str, Any]:
    return {
        "route": admission.route,
        "tier": admission.tier,
        "priority": admission.priority,
        "arm": admission.arm,
        "policy_version": admission.policy_version,
        "verdicts": admission.verdicts,
    }


def _grounded(grounding: Grounding) -> dict[str, Any]:
    return {
        "question": grounding.question,
        "messages": grounding.messages,
        "passages": grounding.passages,
        "prompt_version": grounding.prompt_version,
        "prompt_digest": grounding.prompt_digest,
        "index_version": grounding.index_version,
        "embedding_model": grounding.embedding_model,
    }


def _completed(completion: Completion) -> dict[str, Any]:
    return {
        "finish_reason": completion.finish_reason,
        "model": completion.model,
        "provider": completion.provider,
        "deployment": completion.deployment,
        "response_id": completion.response_id,
        "usage": completion.usage,
        "cost_usd": completion.cost_usd,
        "avoided_cost_usd": completion.avoided_cost_usd,
        "estimated": completion.estimated,
        "served_by": completion.served_by,
        "source_event_id": completion.source_event_id,
        "attempts": completion.attempts,
    }


def _bounded(request: Request) -> Request:
    """A request that was not validated, without what is too long to be carried."""
    asked = question(request)
    fits = asked is not None and asked.inline is not None and len(asked.inline) <= _QUESTION_CHARS
    labels = {name: getattr(request, name)[:_LABEL_CHARS] for name in ("team", "user", "session", "feature")}
    key, size = request.idempotency_key, sum(len(k) + len(v) for k, v in request.metadata.items())
    return replace(
        request,
        **labels,
        query=Text(inline=asked.inline) if asked is not None and fits else None,
        messages=(),
        idempotency_key=None if key is None else key[:_LABEL_CHARS],
        metadata=request.metadata if size <= _METADATA_CHARS else {},
        route=(request.route or "")[:_LABEL_CHARS],
        model=(request.model or "")[:_LABEL_CHARS],
        priority=request.priority[:_LABEL_CHARS],
        response_format=replace(request.response_format, type=request.response_format.type[:_LABEL_CHARS]),
    )


def _meta(incoming: Incoming[Any], stage: str, stage_version: str, ordinal: int) -> Meta:
    """The answer's meta. A request's own event id is whatever its producer made up: it is derived instead."""
    if isinstance(incoming.record, Request):
        meta = incoming.meta
        cause = request_event_id(tenant=meta.tenant, lane=meta.lane, request_id=meta.request_id)
        incoming = replace(incoming, meta=replace(meta, event_id=cause))
    return incoming.child(stage, stage_version, ordinal)


def _snake(name: str) -> str:
    """``CrashLoopError`` as ``crash_loop``."""
    stem = name.removesuffix("Error")
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(stem))
