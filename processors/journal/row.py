"""Rows of the journal's tables to values and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from psycopg.types.json import Jsonb

from processors.journal.entry import AttemptRow, Bound, CallFailure, CallKey, CallRow, Lease, Settled, Target
from processors.journal.sql import ATTEMPT_NAMES
from schemas.records import Usage


def call_from(key: CallKey, row: tuple[Any, ...]) -> CallRow:
    """The call in a row of ``CALL_COLUMNS``."""
    input_hash, data, state, owner, epoch, until, result, failure, updated_at, kept, *_ = row
    return CallRow(
        key=key,
        input_hash=input_hash,
        input=data,
        state=state,
        owner=owner,
        epoch=epoch,
        lease_until=until,
        result=result,
        failure=None if failure is None else CallFailure(**failure),
        updated_at=updated_at,
        kept=kept,
    )


def failure_as_json(failure: CallFailure) -> dict[str, Any]:
    """What is stored in ``calls.failure``."""
    return asdict(failure)


def key_parameters(key: CallKey) -> dict[str, Any]:
    """The columns of a call's key."""
    return {
        "call_id": key.call_id,
        "tenant": key.tenant,
        "lane": key.lane,
        "run": key.run,
        "request_id": key.request_id,
        "purpose": key.purpose,
        "ordinal": key.ordinal,
    }


def attempt_from(row: Mapping[str, Any]) -> AttemptRow:
    """The attempt in a row of ``ATTEMPT_COLUMNS``, by their names."""
    return attempt_from_columns([row[name] for name in ATTEMPT_NAMES])


def attempt_from_columns(columns: Sequence[Any]) -> AttemptRow:
    """The attempt in a row of ``ATTEMPT_COLUMNS``, in their order."""
    attempt_id, ordinal, epoch, *target = columns[:11]
    prompt_tokens, completion_tokens, bound_usd, state, started_at, ended_at = columns[11:17]
    error_class, error_code, http_status, response_id, duration_ms, first_token_ms = columns[17:23]
    cost_usd, estimated, upper_bound, late_at, duplicate, unknown_code, unknown_duration_ms = columns[30:37]
    return AttemptRow(
        attempt_id=str(attempt_id),
        ordinal=ordinal,
        epoch=epoch,
        target=Target(
            bound=Bound(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, usd=bound_usd),
            **dict(zip(_TARGET, target, strict=True)),
        ),
        state=state,
        started_at=started_at,
        ended_at=ended_at,
        error_class=error_class,
        error_code=error_code,
        http_status=http_status,
        response_id=response_id,
        duration_ms=duration_ms,
        first_token_ms=first_token_ms,
        usage=_usage_from(columns[23:30]),
        cost_usd=cost_usd,
        estimated=estimated,
        upper_bound=upper_bound,
        late_at=late_at,
        duplicate=duplicate,
        unknown_code=unknown_code,
        unknown_duration_ms=unknown_duration_ms,
    )


def opening_parameters(lease: Lease, target: Target, ordinal: int) -> dict[str, Any]:
    """The columns of a new attempt."""
    return {
        "attempt_id": lease.key.attempt_id(ordinal),
        "call_id": lease.key.call_id,
        "ordinal": ordinal,
        "epoch": lease.epoch,
        "bound_prompt_tokens": target.bound.prompt_tokens,
        "bound_completion_tokens": target.bound.completion_tokens,
        "upper_bound_usd": target.bound.usd,
        **{name: getattr(target, name) for name in _TARGET},
    }


def saving_parameters(attempt: AttemptRow) -> dict[str, Any]:
    """The columns of an attempt that change when it ends."""
    details = attempt.usage.details if attempt.usage is not None else None
    return {
        "attempt_id": attempt.attempt_id,
        "usage_details": Jsonb(dict(details)) if details else None,
        **_usage_parameters(attempt.usage),
        **{name: getattr(attempt, name) for name in _PLAIN},
    }


def settled_parameters(settled: Settled) -> dict[str, Any]:
    """What an attempt is closed with, as JSON has it; when is the database's to say."""
    details = settled.usage.details if settled.usage is not None else None
    return {
        "state": settled.state,
        "error_class": settled.error_class,
        "error_code": settled.error_code,
        "http_status": settled.http_status,
        "response_id": settled.response_id,
        "duration_ms": settled.duration_ms,
        "first_token_ms": settled.first_token_ms,
        "usage_details": dict(details) if details else None,
        "cost_usd": str(settled.cost_usd),
        "estimated": settled.estimated,
        "upper_bound": settled.upper_bound,
        **_usage_parameters(settled.usage),
    }


def _usage_parameters(usage: Usage | None) -> dict[str, Any]:
    counts = {name: None if usage is None else getattr(usage, name) for name in _USAGE}
    return {"usage_estimated": usage is not None and usage.estimated, **counts}


def _usage_from(columns: Sequence[Any]) -> Usage | None:
    *counts, estimated, details = columns
    if counts[0] is None:
        return None
    return Usage(estimated=estimated, details=details or {}, **dict(zip(_USAGE, counts, strict=True)))


_TARGET = ("route", "deployment", "provider", "model", "price_source", "account", "stage_version", "control_offset")
_USAGE = ("prompt_tokens", "completion_tokens", "cached_prompt_tokens", "cache_write_tokens", "reasoning_tokens")
_PLAIN = (
    "ordinal",
    "epoch",
    "state",
    "started_at",
    "ended_at",
    "error_class",
    "error_code",
    "http_status",
    "response_id",
    "duration_ms",
    "first_token_ms",
    "cost_usd",
    "estimated",
    "upper_bound",
    "late_at",
    "duplicate",
    "unknown_code",
    "unknown_duration_ms",
)
