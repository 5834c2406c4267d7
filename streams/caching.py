"""Builds a worker's caches from its settings, and counts what they do."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from processors.cache import CachePolicy, Caches, PostgresCacheStore
from processors.clock import Clock
from processors.embeddings import Embedder
from processors.failpoints import Failpoints
from processors.journal.port import Journal
from processors.postgres import Database
from schemas.codec import Codec
from streams.cache_settings import CacheSettings
from streams.metrics import Metrics
from streams.settings import Settings


def build_caches(
    settings: Settings,
    database: Database,
    journal: Journal,
    *,
    codec: Codec,
    clock: Clock,
    metrics: Metrics,
    failpoints: Failpoints,
    embedder: Callable[[], Embedder],
) -> Caches | None:
    """The caches of the settings' routes; ``None`` where no route uses any, so that nothing is asked of anybody.

    ``embedder`` is called where a route has a semantic cache.
    """
    policies = {name: cache_policy(route.cache) for name, route in settings.routes.items()}
    if not any(policy.used for policy in policies.values()):
        return None
    return Caches(
        PostgresCacheStore(database),
        journal,
        policies=policies,
        codec=codec,
        clock=clock,
        embedder=embedder() if any(policy.semantic for policy in policies.values()) else None,
        observer=CacheMetrics(metrics),
        failpoints=failpoints,
    )


def cache_policy(settings: CacheSettings) -> CachePolicy:
    """A route's policy."""
    return CachePolicy(
        exact=settings.exact,
        semantic=settings.semantic,
        single_flight=settings.waits,
        ttl_s=settings.ttl_s,
        similarity=settings.similarity,
        scope=settings.scope,
    )


class CacheMetrics:
    """A ``CacheObserver`` that counts."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_cache(self, route: str, cache: str, outcome: str) -> None:
        self._metrics.cache_lookups.labels(route, cache, outcome).inc()

    def on_avoided(self, route: str, usd: Decimal) -> None:
        self._metrics.cache_avoided.labels(route).inc(float(usd))
