"""The age from which nothing is paid for a request any more."""

from __future__ import annotations

from datetime import datetime, timedelta

from schemas.errors import RefusedError
from schemas.records import Meta


def too_old(meta: Meta, horizon: timedelta | None, now: datetime) -> RefusedError | None:
    """The refusal of an event whose request is older than ``horizon``; ``None`` for a younger one.

    The rows that keep a request from being paid or answered twice outlive the horizon and nothing beyond it.
    """
    if horizon is None or meta.accepted_at is None or now - meta.accepted_at <= horizon:
        return None
    return RefusedError(
        "too_old",
        f"the request is older than {horizon.total_seconds() / 86_400:g} days, for which what became of it is known; "
        "send it again under a new id",
        status="expired",
    )
