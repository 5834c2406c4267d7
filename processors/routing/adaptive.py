"""How many calls a deployment is given at a time: up by one where it goes well, down by a factor where it does not.

Additive increase, multiplicative decrease (AIMD, as TCP does it), on 429 and on latency, between 1 and the setting.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptivePolicy:
    """``on_throttled`` and ``on_slow`` are what the limit is multiplied by.

    Slow is a mean first output that takes ``slow_factor`` times as long as at its best, and ``slow_s`` longer: models
    differ from call to call. Slowness alone never cuts the limit under ``slow_floor`` of the setting.
    """

    on_throttled: float = 0.7
    on_slow: float = 0.9
    slow_factor: float = 4.0
    slow_s: float = 1.0
    slow_floor: float = 0.25
    # The weight of the newest call in the mean, and how fast what was best is forgotten.
    newest: float = 0.1
    forgetting: float = 0.005


class AdaptiveLimit:
    """One deployment's. It begins at ``most``: what an operator set is believed until the provider says otherwise."""

    def __init__(self, most: int, policy: AdaptivePolicy | None = None) -> None:
        self._most, self._policy = most, policy or AdaptivePolicy()
        self._limit = float(most)
        self._cut_at = float("-inf")
        self._mean_s: float | None = None
        self._best_s = float("inf")

    @property
    def size(self) -> int:
        """How many calls may be open at a time, at least 1."""
        return max(1, int(self._limit))

    def succeeded(self, now: float, *, began: float, in_flight: int, latency_s: float | None) -> None:
        """A call answered. ``in_flight`` with itself, when it began to end; ``latency_s`` to its first output."""
        if latency_s is not None and self._slow(latency_s):
            floor = max(1.0, self._most * self._policy.slow_floor)
            if began >= self._cut_at and self._limit > floor:
                self._cut(now, max(floor, self._limit * self._policy.on_slow))
            return
        if in_flight >= 0.8 * self.size:
            # One more for every round of calls. Where the limit isn't used, nothing is known of a higher one.
            self._limit = min(float(self._most), self._limit + 1.0 / self.size)

    def throttled(self, now: float, *, began: float) -> None:
        """A call was refused because there were too many. Calls that began before the last cut say nothing new."""
        if began >= self._cut_at:
            self._cut(now, max(1.0, self._limit * self._policy.on_throttled))

    def _cut(self, now: float, limit: float) -> None:
        self._limit, self._cut_at = limit, now

    def _slow(self, latency_s: float) -> bool:
        policy = self._policy
        mean = latency_s if self._mean_s is None else self._mean_s + policy.newest * (latency_s - self._mean_s)
        self._mean_s = mean
        self._best_s = min(mean, self._best_s * (1 + policy.forgetting))
        return mean > policy.slow_factor * self._best_s and mean > self._best_s + policy.slow_s
