"""The complete stage with caches, on the shipped fakes."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

from processors.cache import CachePolicy, Caches, MemoryCacheStore, NullCacheObserver
from processors.complete.processor import Complete
from processors.embeddings import Embedder, HashingEmbedder
from tests.support.completing import CODEC, Bench

ON = CachePolicy(exact=True, single_flight=True, ttl_s=60.0)


class Seen(NullCacheObserver):
    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.avoided = Decimal(0)

    def on_cache(self, route: str, cache: str, outcome: str) -> None:
        self.counts[cache, outcome] += 1

    def on_avoided(self, route: str, usd: Decimal) -> None:
        self.avoided += usd


class CacheBench(Bench):
    """The stage with caches; each worker has a process level of its own."""

    def __init__(self, policy: CachePolicy = ON, **route: Any) -> None:
        super().__init__(**route)
        self.policy, self.store, self.seen = policy, MemoryCacheStore(self.journal), Seen()
        self.hashing = HashingEmbedder()
        self.embedder: Embedder = self.hashing

    def worker(self, owner: str = "w1", **options: Any) -> Complete:
        caches = Caches(
            self.store,
            self.journal,
            policies={"default": options.pop("policy", self.policy)},
            codec=CODEC,
            clock=self.clock,
            embedder=self.embedder,
            observer=self.seen,
            local=options.pop("local", None),
        )
        return super().worker(owner, caches=caches, **options)

    def paid(self) -> int:
        return len(self.model.calls)
