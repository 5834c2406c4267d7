"""What a worker has drawn from buckets and not used yet: small, short-lived, and given back."""

from __future__ import annotations

from dataclasses import dataclass

from processors.admit.buckets import Draw, Drawn, Rate
from processors.admit.limits import Step

# What was drawn and not used after this long is not used any more, but given back with the next draw.
SLICE_S = 0.5


@dataclass(slots=True)
class _Slice:
    rate: Rate
    left: float = 0.0
    # When the oldest of it was drawn, and when it was last asked for more: monotonic seconds.
    since: float = 0.0
    asked: float = float("-inf")
    # How much more than needed was asked last time.
    ahead: float = 0.0
    # What the bucket itself held after the last draw.
    level: float = 0.0


class Slices:
    """One worker's share of every bucket. Not for several loops at once."""

    def __init__(self, *, slice_s: float = SLICE_S) -> None:
        self._slice_s = slice_s
        self._by_bucket: dict[str, _Slice] = {}

    def wanted(self, demand: dict[str, tuple[Rate, int]], now: float) -> list[Draw]:
        """What to draw to meet a demand by bucket; empty where all of it is at hand.

        A bucket that was asked a moment ago is asked for more than is needed now, twice as much each time, up to what
        comes in within the life of a slice: so that a busy worker asks twice a second, however much it admits.
        """
        draws = []
        for bucket, (rate, amount) in demand.items():
            held = self._by_bucket.setdefault(bucket, _Slice(rate))
            held.rate = rate
            stale = self._stale(held, now)
            missing = amount - (0 if stale else held.left)
            if missing <= 0:
                continue
            busy = now - held.asked < self._slice_s
            most = rate.per_s * self._slice_s
            held.ahead = min(most, max(2 * held.ahead, float(amount))) if busy else 0.0
            held.asked = now
            wish = max(1, -int(-missing // 1)) + int(held.ahead)
            draws.append(Draw(bucket=bucket, rate=rate, wish=wish, returned=held.left if stale else 0.0))
            if stale:
                held.left = 0.0
        return draws

    def drawn(self, found: dict[str, Drawn], now: float) -> None:
        """Take in what a draw gave."""
        for bucket, got in found.items():
            held = self._by_bucket[bucket]
            if held.left <= 0:
                held.since = now
            held.left += got.granted
            held.level = got.available - got.granted

    def short(self, step: Step) -> bool:
        """Whether there is not enough at hand for a step."""
        return self._by_bucket[step.bucket].left < step.amount

    def use(self, step: Step) -> None:
        """Take a step's amount; there is enough."""
        self._by_bucket[step.bucket].left -= step.amount

    def give(self, step: Step, now: float) -> None:
        """Put back what was taken for a step and not needed."""
        held = self._by_bucket.setdefault(step.bucket, _Slice(step.rate))
        if held.left <= 0:
            held.since = now
        held.left += step.amount

    def wait_s(self, step: Step, *, before: float = 0.0) -> float:
        """When a step's amount will have come in, ``before`` of it going to others; as of the last draw."""
        held = self._by_bucket[step.bucket]
        return max(0.0, (before + step.amount - held.left - held.level) / step.rate.per_s)

    def owed(self, step: Step, amount: float) -> None:
        """Note that the bucket was taken below what it holds."""
        self._by_bucket[step.bucket].level -= amount

    def stale(self, now: float, *, all_of_it: bool = False) -> list[Draw]:
        """What to give back; forgets buckets that hold nothing and were not asked lately."""
        draws = []
        for bucket, held in list(self._by_bucket.items()):
            if held.left > 0 and (all_of_it or self._stale(held, now)):
                draws.append(Draw(bucket=bucket, rate=held.rate, returned=held.left))
                held.left = 0.0
            elif held.left <= 0 and now - held.asked > self._slice_s:
                del self._by_bucket[bucket]
        return draws

    @property
    def empty(self) -> bool:
        """Whether nothing is held."""
        return not self._by_bucket

    def _stale(self, held: _Slice, now: float) -> bool:
        return held.left > 0 and now - held.since >= self._slice_s
