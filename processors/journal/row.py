"""Rows of the journal's tables to values and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from psycopg.types.json import Jsonb

from processors.journal.entry import AttemptRow, Bound, CallFailure, CallKey, CallRow, Lease, Target
from schemas.records import Usage


def call_from(key: CallKey, row: tuple[Any, ...]) -> CallRow:
    """The call in a row of ``CALL_COLUMNS``."""
    input_hash, data, state, owner, epoch, until, result, failure, updated_at, *_ = row
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
    """The attempt in a row of ``ATTEMPT_COLUMNS``."""
    return AttemptRow(
        attempt_id=str(row["attempt_id"]),
        target=Target(
            bound=Bound(
                prompt_tokens=row["bound_prompt_tokens"],
                completion_tokens=row["bound_completion_tokens"],
                usd=row["upper_bound_usd"],
            ),
            **{name: row[name] for name in _TARGET},
        ),
        usage=_usage_from(row),
        **{name: row[name] for name in _PLAIN},
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
    usage = attempt.usage
    return {
        "attempt_id": attempt.attempt_id,
        "usage_estimated": usage is not None and usage.estimated,
        "usage_details": Jsonb(dict(usage.details)) if usage is not None and usage.details else None,
        **{name: None if usage is None else getattr(usage, name) for name in _USAGE},
        **{name: getattr(attempt, name) for name in _PLAIN},
    }


def _usage_from(row: Mapping[str, Any]) -> Usage | None:
    if row["prompt_tokens"] is None:
        return None
    counts = {name: row[name] for name in _USAGE}
    return Usage(estimated=row["usage_estimated"], details=row["usage_details"] or {}, **counts)


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
)
