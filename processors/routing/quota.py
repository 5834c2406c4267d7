"""A deployment's requests and tokens a minute, as its settings have them: a token bucket each."""

from __future__ import annotations


class Quota:
    """One deployment's, for this worker process. Nothing here blocks; times are monotonic, in seconds.

    A bucket holds what ten seconds bring. A request that is larger than its bucket is let through when that is full,
    and is paid off before the next.
    """

    def __init__(self, *, requests_per_minute: int | None = None, tokens_per_minute: int | None = None) -> None:
        self._requests = None if requests_per_minute is None else _Bucket(requests_per_minute)
        self._tokens = None if tokens_per_minute is None else _Bucket(tokens_per_minute)
        # Since the process began, whatever is limited.
        self.requests = self.tokens = 0

    def wait_s(self, tokens: int, now: float) -> float:
        """How long until a request of so many tokens fits; 0: now."""
        waits = [self._requests.wait_s(1, now)] if self._requests else []
        waits += [self._tokens.wait_s(tokens, now)] if self._tokens else []
        return max(waits, default=0.0)

    def take(self, tokens: int, now: float) -> None:
        """Count a request."""
        self.requests += 1
        self.tokens += tokens
        if self._requests:
            self._requests.take(1, now)
        if self._tokens:
            self._tokens.take(tokens, now)

    def give_back(self, tokens: int, now: float) -> None:
        """A request that was counted was not made."""
        self.settle(tokens, 0, now)
        self.requests -= 1
        if self._requests:
            self._requests.take(-1, now)

    def settle(self, reserved: int, used: int, now: float) -> None:
        """A request that was counted with ``reserved`` tokens used ``used``."""
        self.tokens += used - reserved
        if self._tokens:
            self._tokens.take(used - reserved, now)


class _Bucket:
    def __init__(self, per_minute: int) -> None:
        self._rate = per_minute / 60.0
        self._size = max(1.0, per_minute / 6.0)
        self._level, self._at = self._size, float("-inf")

    def wait_s(self, amount: float, now: float) -> float:
        return max(0.0, (min(amount, self._size) - self._now(now)) / self._rate)

    def take(self, amount: float, now: float) -> None:
        self._level, self._at = min(self._size, self._now(now) - amount), now

    def _now(self, now: float) -> float:
        return min(self._size, self._level + (now - self._at) * self._rate)
