"""The settings of a route's caches, and what has to hold between them and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from streams.credentials import Section
from streams.retention import DAY_S, Retention, say_days

# What a cached answer is read from.
_TABLES = ("calls", "cache_entries")


class CacheSettings(Section):
    """What a route answers without a call. All of it is off by default; a request switches it off with ``cache``."""

    # By the result of an identical request.
    exact: bool = False
    # By that of a request whose question is nearly the same, everything else being identical.
    semantic: bool = False
    # Identical requests that were asked before the first was answered wait for its answer. As ``exact`` by default.
    single_flight: bool | None = None
    ttl_s: float = Field(default=3600.0, gt=0, le=30 * DAY_S)
    # Least cosine similarity of two questions. Below 0.9 most pairs of look-alikes pass.
    similarity: float = Field(default=0.95, ge=0.8, le=1)
    # Whose answers are shared: the tenant's, or each user's own.
    scope: Literal["tenant", "user"] = "tenant"

    @model_validator(mode="after")
    def _cross_check(self) -> CacheSettings:
        if self.semantic and not self.exact:
            raise ValueError("semantic needs exact = true: what it finds is the answer to another request")
        return self

    @property
    def waits(self) -> bool:
        """Whether identical requests wait for one call."""
        return self.exact if self.single_flight is None else self.single_flight


def check_caches(caches: Mapping[str, CacheSettings], retention: Retention) -> None:
    """Check that answers are kept for as long as they may be served. Raises ``ValueError`` that names the route."""
    for name, cache in caches.items():
        for table in _TABLES:
            kept = retention.tables[table]
            if cache.exact and cache.ttl_s > kept * DAY_S:
                raise ValueError(
                    f"routes.{name}.cache.ttl_s is {cache.ttl_s:g} s, but retention.tables.{table} keeps answers for"
                    f" {say_days(kept)}: set ttl_s to {kept * DAY_S:g} or less"
                )
