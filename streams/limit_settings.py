"""Settings of tenants and of admission: rate limits by tier, tenant, user and for everyone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from processors.admit.buckets import Rate
from processors.admit.limits import DEFAULT_TIERS, LimitPolicy, Rates, TierLimits
from streams.credentials import Section

# Largest figure that a bucket keeps exactly.
_MOST = 10**12


class RateSettings(Section):
    """Requests and tokens a minute; what is left out has no limit.

    A burst is what may be saved up: a minute's worth where it is left out.
    """

    requests_per_minute: float | None = Field(default=None, gt=0, le=_MOST)
    tokens_per_minute: float | None = Field(default=None, gt=0, le=_MOST)
    requests_burst: float | None = Field(default=None, ge=1, le=_MOST)
    tokens_burst: float | None = Field(default=None, ge=1, le=_MOST)

    @model_validator(mode="after")
    def _cross_check(self) -> RateSettings:
        for unit in ("requests", "tokens"):
            if getattr(self, f"{unit}_burst") is not None and getattr(self, f"{unit}_per_minute") is None:
                raise ValueError(f"{unit}_burst without {unit}_per_minute limits nothing; set {unit}_per_minute too")
        return self

    def rates(self) -> Rates:
        """As admission takes them."""
        return Rates(
            requests=_rate(self.requests_per_minute, self.requests_burst),
            tokens=_rate(self.tokens_per_minute, self.tokens_burst),
        )


class TenantSettings(Section):
    """What is known of a tenant."""

    tier: str = "standard"
    # In place of the tier's rates for a tenant.
    limits: RateSettings | None = None
    # Requests between their admission and their answer; what is over waits outside the log. None: as many as come.
    max_in_flight: int | None = Field(default=None, ge=1, le=100_000)
    # Routes that stand for others when this tenant asks, by the name of the other.
    routes: dict[str, str] = Field(default_factory=dict)


class TierLimitSettings(Section):
    """A tier's limits: of each user, of each tenant, and of all tenants of the tier together.

    ``over``: what becomes of a request over a limit.
    """

    over: Literal["reject", "queue"] = "reject"
    user: RateSettings = RateSettings()
    tenant: RateSettings = RateSettings()
    together: RateSettings = RateSettings()

    def limits(self) -> TierLimits:
        """As admission takes them."""
        return TierLimits(
            user=self.user.rates(),
            tenant=self.tenant.rates(),
            together=self.together.rates(),
            queue=self.over == "queue",
        )


class LimitSettings(Section):
    """Rate limits. Tiers that are not named keep their defaults: see ``DEFAULT_TIERS``; all others have no limit."""

    tiers: dict[str, TierLimitSettings] = Field(default_factory=dict)
    everyone: RateSettings = RateSettings()

    def policy(self, tenants: Mapping[str, RateSettings | None], answer_tokens: Mapping[str, int]) -> LimitPolicy:
        """As admission takes it; ``tenants`` are those with rates of their own, ``answer_tokens`` go by route."""
        return LimitPolicy(
            tiers={**DEFAULT_TIERS, **{name: tier.limits() for name, tier in self.tiers.items()}},
            tenants={name: own.rates() for name, own in tenants.items() if own is not None},
            everyone=self.everyone.rates(),
            answer_tokens=answer_tokens,
        )


def _rate(per_minute: float | None, burst: float | None) -> Rate | None:
    if per_minute is None:
        return None
    return Rate(per_minute=per_minute, burst=burst or max(1.0, per_minute))
