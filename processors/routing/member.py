"""One deployment of a worker: what is known of its health, and how much more it is given."""

from __future__ import annotations

import math
from decimal import Decimal

from processors.complete.routes import Cause, Deployment
from processors.routing.adaptive import AdaptiveLimit
from processors.routing.breaker import Breaker
from processors.routing.causes import UNUSED, Ended
from processors.routing.keys import Key, KeyRing
from processors.routing.observer import PoolObserver
from processors.routing.quota import Quota
from processors.routing.retry_budget import RetryBudget
from processors.routing.spare import Spare
from processors.routing.strategy import Candidate
from processors.routing.use import Use

# A latency that is older than this says nothing of now.
_MEASURED_FOR_S = 60.0
_NEWEST = 0.3
# How long one waits for a deployment whose every key is refused.
DENIED_S = math.inf


class Member:
    """Breaker, keys, limits and latency of a deployment. Nothing here blocks; times are monotonic, in seconds."""

    def __init__(self, deployment: Deployment, observer: PoolObserver, spare: Spare) -> None:
        self.deployment, self.name = deployment, deployment.name
        self.breaker, self.limit = Breaker(), AdaptiveLimit(deployment.max_concurrency)
        self.keys, self.retries = KeyRing(deployment), RetryBudget()
        self._spare = spare
        self._quota = Quota(
            requests_per_minute=deployment.requests_per_minute, tokens_per_minute=deployment.tokens_per_minute
        )
        self._observer = observer
        self._latency_s: float | None = None
        self._measured_at = -math.inf
        self.in_flight = self._most = 0
        self._throttled_at: float | None = None
        observer.on_limit(self.name, self.limit.size)
        observer.on_breaker(self.name, open_=False)

    @property
    def full(self) -> bool:
        """Whether as many calls are open as may be."""
        return self.in_flight >= self.limit.size or self.in_flight >= self._spare.places(self.name)

    def fits(self, tokens: int) -> bool:
        """Whether a request of so many tokens fits into what others leave of the limits a minute."""
        return self._spare.fits(self.name, tokens)

    def use(self, waiting: int, now: float) -> Use:
        """How it is used, with the most that were open since this was asked last."""
        most, self._most = max(self._most, self.in_flight), self.in_flight
        return Use(
            in_flight=self.in_flight,
            most=most,
            limit=self.limit.size,
            waiting=waiting,
            requests=self._quota.requests,
            tokens=self._quota.tokens,
            throttled_s=None if self._throttled_at is None else now - self._throttled_at,
        )

    def wait_s(self, tokens: int, now: float) -> float:
        """How long until a call may go there, apart from how many are open; 0: now; infinite: every key is refused."""
        if self.keys.denied(now):
            return DENIED_S
        return max(self.breaker.wait_s(now), self.keys.wait_s(now), self._quota.wait_s(tokens, now))

    def cause(self, now: float) -> Cause:
        """Why calls have to wait."""
        return "outage" if self.breaker.wait_s(now) > 0 or self.keys.denied(now) else "rate_limit"

    def candidate(self, cost_usd: Decimal, now: float) -> Candidate:
        """What strategies look at."""
        fresh = now - self._measured_at < _MEASURED_FOR_S
        return Candidate(
            name=self.name,
            weight=self.deployment.weight,
            busy=self.in_flight / self.limit.size,
            latency_s=self._latency_s if fresh else None,
            cost_usd=cost_usd,
        )

    def begin(self, tokens: int, now: float) -> tuple[Key, bool]:
        """A call goes there; its key, and whether it is the breaker's probe."""
        key, probe = self.keys.take(now), self.breaker.begin(now)
        self._quota.take(tokens, now)
        self._spare.began(self.name, tokens)
        self.in_flight += 1
        self._most = max(self._most, self.in_flight)
        return key, probe

    def end(self, key: Key, ended: Ended, *, probe: bool, began: float, tokens: int, now: float) -> None:
        """A call that began there has ended."""
        was_closed, aside = self.breaker.closed, self.keys.aside
        failed = {"answered": False, "failed": True}.get(ended.finding)
        self.breaker.ended(now, failed=failed, probe=probe)
        if ended.finding == "answered":
            self._answered(ended, began=began, tokens=tokens, now=now)
        elif ended.finding == "throttled":
            self._throttled_at = now
            self._spare.throttled(self.name)
            self.limit.throttled(now, began=began)
            self._observer.on_limit(self.name, self.limit.size)
        if ended.pause_s:
            self.keys.pause(key, now + ended.pause_s)
        if ended is UNUSED:
            self._quota.give_back(tokens, now)
            self._spare.unsent(self.name, tokens)
        if ended.finding == "denied" and self.keys.set_aside(key, now):
            self._observer.on_key_refused(self.name, key.number, ended.code)
        elif ended.finding in ("answered", "throttled") or (ended.finding == "neutral" and ended.code):
            self.keys.accepted(key)
        elif ended.finding == "neutral" and key.aside_until is not None:
            # It was about to be tried, and was not.
            key.aside_until = now
        key.in_flight -= 1
        self.in_flight -= 1
        self._spare.ended(self.name)
        if self.keys.aside != aside:
            self._observer.on_keys_aside(self.name, self.keys.aside)
        if self.breaker.closed != was_closed:
            self._observer.on_breaker(self.name, open_=not self.breaker.closed)

    def _answered(self, ended: Ended, *, began: float, tokens: int, now: float) -> None:
        latency_s = ended.latency_s
        self.limit.succeeded(now, began=began, in_flight=self.in_flight, latency_s=latency_s)
        if ended.tokens is not None:
            self._quota.settle(tokens, ended.tokens, now)
        if latency_s is not None:
            known = self._latency_s if now - self._measured_at < _MEASURED_FOR_S else None
            self._latency_s = latency_s if known is None else known + _NEWEST * (latency_s - known)
            self._measured_at = now
        self._observer.on_limit(self.name, self.limit.size)
