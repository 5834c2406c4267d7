"""Which limits a request has to pass, narrowest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from processors.admit.buckets import Rate
from schemas.records import Request

# A byte-level vocabulary has about four bytes a token in English.
_BYTES_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Limits of one holder; ``None`` is no limit. Tokens are estimated ones: see ``tokens_of``."""

    requests: Rate | None = None
    tokens: Rate | None = None


NO_RATES = Rates()


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLimits:
    """A tier's limits: of each user, of each tenant, and of all its tenants together.

    ``queue``: what is over waits until it fits; else it is rejected.
    """

    user: Rates = NO_RATES
    tenant: Rates = NO_RATES
    together: Rates = NO_RATES
    queue: bool = False


NO_LIMITS = TierLimits()


def per_minute(limit: float) -> Rate:
    """A rate that may save up a minute's worth."""
    return Rate(per_minute=limit, burst=max(1.0, limit))


DEFAULT_TIERS: Mapping[str, TierLimits] = {
    "free": TierLimits(tenant=Rates(requests=per_minute(10))),
    "pro": TierLimits(tenant=Rates(requests=per_minute(100))),
    "enterprise": TierLimits(tenant=Rates(requests=per_minute(1000))),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One limit that a request has to pass: so much of a bucket."""

    name: str
    bucket: str
    rate: Rate
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitPolicy:
    """Every limit. A tier that is not among ``tiers`` has none; ``tenants`` replace their tier's rates.

    ``answer_tokens``: by route, what a request that names no limit may generate.
    """

    tiers: Mapping[str, TierLimits] = field(default_factory=lambda: DEFAULT_TIERS)
    tenants: Mapping[str, Rates] = field(default_factory=dict)
    everyone: Rates = NO_RATES
    answer_tokens: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts_tokens(self) -> bool:
        """Whether any limit is of tokens."""
        tiers = (rates for tier in self.tiers.values() for rates in (tier.user, tier.tenant, tier.together))
        return any(rates.tokens is not None for rates in (*tiers, *self.tenants.values(), self.everyone))

    def of(self, tier: str) -> TierLimits:
        """A tier's limits."""
        return self.tiers.get(tier, NO_LIMITS)

    def steps(self, request: Request, *, lane: str, tier: str, route: str) -> tuple[Step, ...]:
        """The limits that this request has to pass, narrowest first; none for a request that has no limit."""
        limits, tenant, user = self.of(tier), request.meta.tenant, request.user
        holders = [
            # What nobody is named for is held back by the tenant's limit alone.
            ("user", f"{tenant}/{user}", limits.user if user else NO_RATES),
            ("tenant", tenant, self.tenants.get(tenant, limits.tenant)),
            ("tier", tier, limits.together),
            ("everyone", "", self.everyone),
        ]
        tokens = self.tokens_of(request, route) if any(rates.tokens for _, _, rates in holders) else 0
        return tuple(
            Step(name=f"{kind}.{unit}", bucket=f"{lane}/{kind}.{unit}/{holder}", rate=rate, amount=amount)
            for kind, holder, rates in holders
            for unit, rate, amount in (("requests", rates.requests, 1), ("tokens", rates.tokens, tokens))
            if rate is not None
        )

    def tokens_of(self, request: Request, route: str) -> int:
        """An estimate of the tokens that a request will use: its texts, and the most that may be generated.

        Retrieved passages and the prompt's template are not counted: nobody knows them yet.
        """
        texts = [request.query, *(part.text for message in request.messages for part in message.content)]
        size = sum(len((text.inline or "").encode()) for text in texts if text is not None)
        generated = request.sampling.max_tokens or self.answer_tokens.get(route, 0)
        prompt = -(-size // _BYTES_PER_TOKEN) + _TOKENS_PER_MESSAGE * max(1, len(request.messages))
        return prompt + generated * max(1, request.sampling.samples)
