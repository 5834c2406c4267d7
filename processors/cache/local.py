"""The level of a process over the shared store: the answers that were asked for last."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime

from processors.cache.port import Found

MOST_ENTRIES = 2_000
MOST_BYTES = 64_000_000


class LocalCache:
    """Results by key, least recently used first out, bounded by number and by bytes. Never waits."""

    def __init__(self, *, most_entries: int = MOST_ENTRIES, most_bytes: int = MOST_BYTES) -> None:
        self._most_entries, self._most_bytes = most_entries, most_bytes
        self._kept: OrderedDict[bytes, Found] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, fresh_after: datetime) -> Found | None:
        """A result that is not older than that."""
        found = self._kept.get(key)
        if found is None:
            return None
        if found.at < fresh_after:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return found

    def put(self, key: bytes, found: Found) -> None:
        """Keep a result, at the cost of others; one that is larger than all may be is not kept."""
        if len(found.result) > self._most_bytes:
            return
        if key in self._kept:
            self._drop(key)
        self._kept[key] = found
        self._bytes += len(found.result)
        while len(self._kept) > self._most_entries or self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        self._bytes -= len(self._kept.pop(key).result)
