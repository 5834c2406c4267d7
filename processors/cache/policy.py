"""What a route answers from caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["tenant", "user"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How a route uses caches. Off unless it says so.

    ``exact``: a request is answered by the result of an identical one, for ``ttl_s`` seconds. ``semantic``: by that of
    one whose question is as near as ``similarity`` (cosine), everything else being identical. ``single_flight``:
    identical requests that were asked before the first was answered wait for that answer. ``scope``: whose requests
    are identical at all; with ``tenant`` a prompt with personal data is its user's own all the same.
    """

    exact: bool = False
    semantic: bool = False
    single_flight: bool = False
    ttl_s: float = 3600.0
    similarity: float = 0.95
    scope: Scope = "tenant"

    @property
    def used(self) -> bool:
        """Whether the route uses any of it."""
        return self.exact or self.semantic or self.single_flight
