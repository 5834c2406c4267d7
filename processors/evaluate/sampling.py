"""Which answers are scored: a sample by the request's id alone, so that a replay picks the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

_SPACE = 2**64


@dataclass(frozen=True, slots=True)
class Choice:
    """Why an answer was chosen. ``rule``: rate, route:<name> or tenant:<name>."""

    probability: float
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPolicy:
    """Rates from 0 to 1. A tenant's own rate goes before a route's, and that before ``rate``.

    An answer is chosen when the first 8 bytes of sha256(salt + 0x1f + request id), read as an unsigned big-endian
    number, are less than rate × 2^64. A higher rate keeps all that a lower one chose; another salt chooses others.
    """

    rate: float = 0.1
    salt: str = "headrace"
    tenants: Mapping[str, float] = field(default_factory=dict)
    routes: Mapping[str, float] = field(default_factory=dict)

    def choose(self, *, request_id: str, tenant: str, route: str) -> Choice | None:
        """The choice, or ``None`` for an answer that is not sampled."""
        rate, rule = self.rate, "rate"
        if route in self.routes:
            rate, rule = self.routes[route], f"route:{route}"
        if tenant in self.tenants:
            rate, rule = self.tenants[tenant], f"tenant:{tenant}"
        return Choice(rate, rule) if position(self.salt, request_id) < int(rate * _SPACE) else None


def position(salt: str, request_id: str) -> int:
    """Where a request lies among all, 0 to 2^64 - 1."""
    digest = hashlib.sha256(f"{salt}\x1f{request_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
