"""What a worker booked a moment ago: whoever asks next what became of the call needs no round trip for it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from processors.journal.entry import AttemptRow, CallKey, Done, Granted, Lease

Kept = TypeVar("Kept")

# What is asked for later is read from the tables.
_MOST = 512


class Recent:
    """Outcomes of calls that were granted and finished here; each is told once."""

    def __init__(self, *, most: int = _MOST) -> None:
        self._granted: _Latest[Granted] = _Latest(most)
        self._done: _Latest[Done] = _Latest(most)

    def granted(self, granted: Granted) -> None:
        """Hear of a grant: what it asked is a part of the outcome."""
        self._done.take(granted.lease.key)
        self._granted.put(granted.lease.key, granted)

    def finished(self, lease: Lease, rows: tuple[AttemptRow, ...], result: bytes) -> None:
        """Hear that the call of a grant has ended so, with all of its attempts as the tables have them."""
        granted = self._granted.take(lease.key)
        if granted is None or granted.lease != lease:
            return
        done = Done(
            result=result,
            attempts=rows,
            input=granted.input,
            input_hash=granted.input_hash,
            ended_at=rows[-1].ended_at,
        )
        self._done.put(lease.key, done)

    def forget(self, key: CallKey) -> None:
        """Hear that the call went another way."""
        self._granted.take(key)
        self._done.take(key)

    def take(self, key: CallKey) -> Done | None:
        """What the call ended with, if it was here and nobody asked since."""
        return self._done.take(key)


class _Latest(Generic[Kept]):
    def __init__(self, most: int) -> None:
        self._most, self._kept = most, OrderedDict[CallKey, Kept]()

    def put(self, key: CallKey, one: Kept) -> None:
        self._kept[key] = one
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def take(self, key: CallKey) -> Kept | None:
        return self._kept.pop(key, None)
