"""How many of a deployment's calls may be retries, so that retries can't multiply an outage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """``share`` of the first attempts, saved up to ``reserve``, and one every ``every_s`` whatever the traffic is."""

    share: float = 0.2
    reserve: float = 10.0
    every_s: float = 5.0


class RetryBudget:
    """One deployment's. Nothing here blocks; times are monotonic, in seconds."""

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        self._policy = policy or RetryPolicy()
        self._saved = self._policy.reserve
        self._at: float | None = None

    def first(self, now: float) -> None:
        """A first attempt was made."""
        self._saved = min(self._policy.reserve, self._now(now) + self._policy.share)

    def take(self, now: float) -> bool:
        """Whether one more retry may be made; it is counted then."""
        saved = self._now(now)
        if saved < 1:
            return False
        self._saved = saved - 1
        return True

    def _now(self, now: float) -> float:
        if self._at is not None:
            self._saved = min(self._policy.reserve, self._saved + (now - self._at) / self._policy.every_s)
        self._at = now
        return self._saved
