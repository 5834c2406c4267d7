"""Figures over the last minute, and the highest over a longer while."""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0
# What was used within so long may go on at that rate.
RECENT_S = 10.0


class Minute:
    """A sum over the last ``window_s`` seconds. Times are monotonic, in seconds."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._seconds: deque[tuple[int, int]] = deque()
        self._sum = 0

    def add(self, amount: int, now: float) -> None:
        """So much more, now; less where it is negative."""
        if not amount:
            return
        second, before = int(now), 0
        if self._seconds and self._seconds[-1][0] == second:
            before = self._seconds.pop()[1]
        self._seconds.append((second, before + amount))
        self._sum += amount

    def total(self, now: float) -> int:
        """The sum, 0 at least."""
        while self._seconds and self._seconds[0][0] < now - self._window_s:
            self._sum -= self._seconds.popleft()[1]
        return max(0, self._sum)


class Highest:
    """The highest figure of the last ``window_s`` seconds. Times are monotonic, in seconds."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        # Falling: what is lower than a later one never counts again.
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, figure: int, now: float) -> None:
        """A figure that holds now."""
        while self._seen and self._seen[-1][1] <= figure:
            self._seen.pop()
        self._seen.append((now, figure))

    def top(self, now: float) -> int:
        """The highest, 0 at least."""
        while self._seen and self._seen[0][0] < now - self._window_s:
            self._seen.popleft()
        return max(0, self._seen[0][1]) if self._seen else 0


class Need:
    """What a minute may take, by what was taken: in the busiest of the last minutes, or at the rate of now."""

    def __init__(self, window_s: float) -> None:
        self._minute, self._recent, self._highest = Minute(), Minute(RECENT_S), Highest(window_s)

    def add(self, amount: int, now: float) -> None:
        """So much more was taken, now."""
        self._minute.add(amount, now)
        self._recent.add(amount, now)
        self._highest.add(self._minute.total(now), now)

    def total(self, now: float) -> int:
        """For a minute, 0 at least."""
        return max(self._highest.top(now), round(self._recent.total(now) * WINDOW_S / RECENT_S))
