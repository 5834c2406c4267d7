"""When a second call is worth it: how long calls of a route take to begin, and how many of them were hedged."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from processors.complete.routes import HedgePolicy

# What is longer ago than this says nothing of now; of what is not, so many calls at most are kept.
_RECENT_S = 600.0
_MOST_SAMPLES = 500
# Hedges that were not needed are saved up to this many: a sudden slowness may use them at once.
_MOST_SAVED = 10.0


@dataclass(frozen=True, slots=True)
class Wait:
    """How long the first call is given alone, in seconds, from so many ``samples``; 0: by the setting."""

    seconds: float
    samples: int


class HedgePace:
    """One route's, for one worker process. Nothing here blocks; times are monotonic, in seconds."""

    def __init__(self, policy: HedgePolicy) -> None:
        self._policy = policy
        self._heard: deque[tuple[float, float]] = deque(maxlen=_MOST_SAMPLES)
        # Nothing to begin with: at no time were more than the share of all calls hedged.
        self._saved = 0.0

    def heard(self, latency_s: float, now: float) -> None:
        """A call had its first output after so long, or was given up after so long without any."""
        self._heard.append((now, latency_s))

    def wait(self, now: float) -> Wait:
        """How long a call that begins now is given alone."""
        while self._heard and self._heard[0][0] <= now - _RECENT_S:
            self._heard.popleft()
        policy, samples = self._policy, len(self._heard)
        if samples < policy.minimum_samples:
            return Wait(max(policy.floor_s, policy.before_s), 0)
        # The nearest rank: the least that at least so many took no longer than.
        rank = max(1, math.ceil(policy.quantile * samples))
        return Wait(max(policy.floor_s, sorted(latency for _, latency in self._heard)[rank - 1]), samples)

    def called(self) -> None:
        """A call began that may be hedged."""
        self._saved = min(_MOST_SAVED, self._saved + self._policy.share)

    @property
    def may_hedge(self) -> bool:
        """Whether one more hedge is within the share. A little less than one is one: shares are not exact in binary."""
        return self._saved > 1 - 1e-9

    def hedged(self) -> None:
        """A call was hedged."""
        self._saved -= 1
