"""How attempts are booked: what was answered, what failed, what was never sent."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from processors.complete.payload import Payload
from processors.complete.pricing import usage_of
from processors.complete.routes import Deployment
from processors.complete.task import Sending, Task
from processors.journal import AttemptRow, Settled
from processors.journal.protocol import CANCELLED, bound_usage, unknown
from processors.model.port import ModelReply
from processors.routing.causes import Ended
from schemas.errors import OutcomeUnknownError, ProviderError
from schemas.records import Usage

# How an attempt is booked whose request was cancelled before it was sent.
NOT_SENT = Settled(
    state="failed", cost_usd=Decimal(0), error_class=CANCELLED.error_class, error_code=CANCELLED.code, duration_ms=0.0
)


def done(reply: ModelReply, sending: Sending, task: Task, *, at: datetime) -> Settled:
    """An attempt that brought a reply."""
    deployment, payload = sending.deployment, sending.payload
    # The estimate is that of the first messages.
    same = payload["messages"] is task.payload["messages"]
    estimate = task.stored.record.grounding.prompt_tokens_estimate if same else 0
    return brought(reply, deployment, payload, estimate=estimate, at=at)


def brought(reply: ModelReply, deployment: Deployment, payload: Payload, *, estimate: int, at: datetime) -> Settled:
    """How an attempt is booked that had this reply. ``estimate``: tokens of the prompt by our own count."""
    usage = usage_of(reply, payload, deployment, prompt_estimate=estimate)
    return Settled(
        state="done",
        cost_usd=deployment.price.amount(usage, at),
        usage=usage,
        estimated=usage.estimated,
        http_status=200,
        response_id=reply.response_id,
        duration_ms=reply.duration_ms,
        first_token_ms=reply.first_token_ms,
    )


def answered(reply: ModelReply, usage: Usage | None) -> Ended:
    """How a call ended that brought a reply."""
    latency_ms = reply.first_token_ms if reply.first_token_ms is not None else reply.duration_ms
    tokens = None if usage is None else usage.prompt_tokens + usage.completion_tokens
    return Ended("answered", latency_s=latency_ms / 1000, tokens=tokens)


def failed(error: ProviderError, attempt: AttemptRow, *, duration_ms: float) -> Settled:
    """How a failed attempt is booked: at nothing when it was refused, at its bound when it may have been paid."""
    if isinstance(error, OutcomeUnknownError):
        return unknown(attempt, error_code=error.code, duration_ms=duration_ms)
    # A body came with 200, though none that can be used: it may well be on the bill.
    maybe_paid = error.http_status == 200
    return Settled(
        state="failed",
        cost_usd=attempt.target.bound.usd if maybe_paid else Decimal(0),
        usage=bound_usage(attempt) if maybe_paid else None,
        estimated=maybe_paid,
        upper_bound=maybe_paid,
        error_class=error.error_class,
        error_code=error.code,
        http_status=error.http_status,
        duration_ms=duration_ms,
    )
