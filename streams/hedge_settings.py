"""The settings of a route's second calls, and what has to hold for them."""

from __future__ import annotations

from pydantic import Field

from processors.complete.routes import HedgePolicy
from streams.credentials import Section


class HedgeSettings(Section):
    """When a second call is sent beside one that has brought nothing yet. A route without this section sends none."""

    # After what this share of the recent calls took to begin at most: the 95th percentile.
    quantile: float = Field(default=0.95, ge=0.5, lt=1)
    # Never sooner than that.
    floor_s: float = Field(default=0.5, gt=0, le=600)
    # With fewer recent calls than this, after ``before_s``.
    minimum_samples: int = Field(default=50, ge=1, le=500)
    before_s: float = Field(default=5.0, gt=0, le=600)
    # Of a worker's calls, no more than this share is hedged: what is slow for all is not made worse.
    share: float = Field(default=0.05, gt=0, le=1)

    def policy(self) -> HedgePolicy:
        """As the complete stage takes it."""
        return HedgePolicy(**self.model_dump())


def unfit_hedge(*, max_attempts: int, unknown_policy: str) -> str | None:
    """Why a route with these settings can't send second calls; ``None`` where it can."""
    if max_attempts < 2:
        return "needs max_attempts = 2 or more: the second call is one of them"
    if unknown_policy != "repeat":
        return f'needs unknown_policy = "repeat", not "{unknown_policy}": the call that is given up may be paid'
    return None
