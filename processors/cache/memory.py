"""The caches' store in memory, over the journal in memory: for unit tests."""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from processors.batchapi.memory import MemoryBatches
from processors.cache.port import OWN_FAILURES, Failed, Found, Free, Near, Own, Taken, Waiting, Wish
from processors.embeddings import Vector
from processors.journal.entry import CallRow
from processors.journal.memory import MemoryJournal
from schemas.errors import DependencyDownError

_ENDED = ("done", "failed", "unknown")


class MemoryCacheStore:
    """A ``CacheStore`` under the same rules. ``trips`` counts its statements."""

    def __init__(self, journal: MemoryJournal, batches: MemoryBatches | None = None) -> None:
        self._journal, self._batches = journal, batches
        # By key: the call, and until when it has to begin.
        self.entries: dict[bytes, tuple[str, float]] = {}
        self.vectors: dict[bytes, tuple[bytes, Vector]] = {}
        self.trips = 0

    async def join(self, wish: Wish) -> Found | Taken | Own | Waiting:
        self._reach()
        mine = self._journal.calls.get(wish.call.call_id)
        if mine is not None and mine.state in _ENDED:
            return Own()
        seen = self._seen(wish)
        if isinstance(seen, Found | Waiting) and self.entries[wish.key][0] != wish.call.call_id:
            return seen
        self.entries[wish.key] = (wish.call.call_id, self._now() + wish.lease_s)
        return Taken()

    async def look(self, wish: Wish, call_id: str) -> Found | Waiting | Failed | Free:
        self._reach()
        seen = self._seen(wish)
        awaited = self._journal.calls.get(call_id)
        failure = None if awaited is None else awaited.failure
        lost = failure is not None and failure.code not in OWN_FAILURES
        return Failed() if lost and not isinstance(seen, Found) else seen

    async def leave(self, wish: Wish) -> None:
        self._reach()
        if self.entries.get(wish.key, ("",))[0] == wish.call.call_id:
            del self.entries[wish.key]
            self.vectors.pop(wish.key, None)

    async def nearest(self, wish: Wish, scope: bytes, vector: Vector) -> Near | None:
        self._reach()
        best: Near | None = None
        for key, (of, other) in self.vectors.items():
            found = self._found(key, wish) if of == scope and key != wish.key else None
            similarity = float(np.dot(vector, other) / (np.linalg.norm(vector) * np.linalg.norm(other)))
            if found is not None and (best is None or similarity > best.similarity):
                best = Near(found=found, similarity=similarity)
        if wish.key in self.entries:
            self.vectors[wish.key] = (scope, vector)
        return best

    def _reach(self) -> None:
        self.trips += 1
        if self._journal.down:
            raise DependencyDownError("postgres", "the test took it away")

    def _now(self) -> float:
        return self._journal.clock.now().timestamp()

    def _call(self, key: bytes) -> CallRow | None:
        return self._journal.calls.get(self.entries[key][0]) if key in self.entries else None

    def _found(self, key: bytes, wish: Wish) -> Found | None:
        call = self._call(key)
        if call is None or call.result is None or call.state != "done" or call.updated_at < wish.fresh_after:
            return None
        return Found(result=call.result, at=call.updated_at)

    def _seen(self, wish: Wish) -> Found | Waiting | Free:
        found = self._found(wish.key, wish)
        if found is not None or wish.key not in self.entries:
            return found or Free()
        call_id, until = self.entries[wish.key]
        call, now = self._call(wish.key), self._now()
        batched = self._batches is not None and self._batches.batched(call_id)
        live = call is not None and call.state == "calling" and call.lease_until is not None
        if live and call is not None and call.lease_until is not None:
            left_s = (call.lease_until - self._journal.clock.now()) / timedelta(seconds=1)
            if left_s > 0:
                return Waiting(call_id, left_s, batched)
        begun = call is not None and call.state in _ENDED
        if batched or (until > now and not begun):
            return Waiting(call_id, max(0.0, until - now), batched)
        return Free()
