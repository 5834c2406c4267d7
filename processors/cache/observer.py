"""What the caches tell whoever counts."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol


class CacheObserver(Protocol):
    """Hears of every look into a cache. Must not block or raise."""

    def on_cache(self, route: str, cache: str, outcome: str) -> None:
        """``cache``: exact, semantic or flight. ``outcome``: hit; miss; for flight: wait, alone (the first failed)."""
        ...

    def on_avoided(self, route: str, usd: Decimal) -> None:
        """A request was answered without the call that would have cost so much."""
        ...


class NullCacheObserver:
    """Counts nothing."""

    def on_cache(self, route: str, cache: str, outcome: str) -> None: ...

    def on_avoided(self, route: str, usd: Decimal) -> None: ...
