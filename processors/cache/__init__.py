"""Answering from what was paid for before: identical requests, alike requests, and identical ones in flight."""

from processors.cache.caches import Asking, Caches
from processors.cache.memory import MemoryCacheStore
from processors.cache.observer import CacheObserver, NullCacheObserver
from processors.cache.policy import CachePolicy
from processors.cache.postgres import PostgresCacheStore

__all__ = [
    "Asking",
    "CacheObserver",
    "CachePolicy",
    "Caches",
    "MemoryCacheStore",
    "NullCacheObserver",
    "PostgresCacheStore",
]
