"""What admission lets in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a request. Lengths are in characters (code points)."""

    message_chars: int = 10_000
    # All messages together have to fit an event, and the same text travels in every later event of the request.
    total_chars: int = 200_000
    # Images, sound and files as base64, of all messages together. What is too large for a topic goes by claim check.
    data_chars: int = 2_000_000
    messages: int = 256
    id_chars: int = 200
    user_chars: int = 128
    label_chars: int = 128
    idempotency_key_chars: int = 255
    ttl_ms_min: int = 1
    ttl_ms_max: int = 24 * 3600 * 1000
    metadata_entries: int = 32
    metadata_value_chars: int = 512
    variables: int = 64
    max_tokens: int = 131_072
    stop_texts: int = 4
    stop_chars: int = 100
    top_logprobs: int = 20
    schema_chars: int = 65_536
    tools: int = 128
    tools_chars: int = 131_072
    k: int = 50
    namespaces: int = 16
    filters: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitPolicy:
    """Settings of admission, read once.

    ``tenants`` gives each known tenant its tier. With ``trust_producers`` a tenant that is not among them is taken at
    its word and gets ``default_tier``; without, it is refused, as is a claim to another tier than the tenant's own.
    """

    version: str = "1"
    lane: str = "live"
    routes: frozenset[str] = frozenset({"default"})
    default_route: str = "default"
    # Other names of routes.
    aliases: Mapping[str, str] = field(default_factory=dict)
    # Routes that stand for others when a tenant asks.
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tenants: Mapping[str, str] = field(default_factory=lambda: {"default": "standard"})
    default_tier: str = "standard"
    trust_producers: bool = True
    limits: Limits = field(default_factory=Limits)
    # A request of this age is refused: its rows may have been purged. None: rows are kept for ever.
    horizon: timedelta | None = None

    def route(self, asked: str | None, tenant: str) -> str | None:
        """The route that a tenant's request takes; ``None`` where there is none of that name."""
        name = self.default_route if asked is None else self.aliases.get(asked, asked)
        return self.overrides.get(tenant, {}).get(name, name) if name in self.routes else None
