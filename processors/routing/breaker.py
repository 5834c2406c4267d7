"""A circuit breaker: a deployment that fails is left alone for a while, then asked by one call."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """Opens after ``failures`` within ``window_s`` that are at least half of the calls that ended in that time.

    By number alone a busy deployment would be closed off for an error in a thousand. It stays open for ``open_s``,
    twice as long after each probe that failed, ``longest_open_s`` at most.
    """

    failures: int = 5
    window_s: float = 60.0
    open_s: float = 30.0
    longest_open_s: float = 300.0


# While a probe is under way nobody knows when it ends; whoever waits looks again after so long.
PROBE_S = 1.0


class Breaker:
    """One deployment's. Times are monotonic, in seconds; nothing here blocks."""

    def __init__(self, policy: BreakerPolicy | None = None) -> None:
        self._policy = policy or BreakerPolicy()
        self._ended: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._open_until: float | None = None
        self._open_s = self._policy.open_s
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether it lets every call through."""
        return self._open_until is None

    def wait_s(self, now: float) -> float:
        """How long until a call may be let through; 0: now."""
        if self._open_until is None:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        return PROBE_S if self._probing else 0.0

    def begin(self, now: float) -> bool:
        """A call is let through; whether it is the probe of a breaker that was open."""
        if self._open_until is None or self._probing or now < self._open_until:
            return False
        self._probing = True
        return True

    def ended(self, now: float, *, failed: bool | None, probe: bool) -> None:
        """A call ended; ``failed`` None: it says nothing of the deployment, e.g. it was cancelled."""
        if probe:
            self._probing = False
        if failed is None:
            return None
        if probe:
            return self._reopen(now) if failed else self._close()
        if self._open_until is not None:
            # Begun before it opened.
            return None
        self._count(now, failed)
        if failed and self._failures >= self._policy.failures and 2 * self._failures >= len(self._ended):
            self._open_until = now + self._open_s
        return None

    def _count(self, now: float, failed: bool) -> None:
        self._ended.append((now, failed))
        self._failures += failed
        while self._ended and self._ended[0][0] <= now - self._policy.window_s:
            self._failures -= self._ended.popleft()[1]

    def _reopen(self, now: float) -> None:
        self._open_s = min(2 * self._open_s, self._policy.longest_open_s)
        self._open_until = now + self._open_s

    def _close(self) -> None:
        self._open_until, self._open_s = None, self._policy.open_s
        self._ended.clear()
        self._failures = 0
