"""The settings of embeddings."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field, SecretStr

from streams.credentials import Section


class EmbeddingSettings(Section):
    """An OpenAI-compatible embeddings endpoint."""

    base_url: str
    model: str
    dimension: int = Field(default=384, ge=1)
    # US dollars per million tokens. Left out: what the price table or the price library has for the provider's model,
    # where a provider is named. Calls that cost nothing are not booked.
    price: Decimal | None = Field(default=None, ge=0)
    provider: str = ""
    api_key: SecretStr | None = None
    # For one call.
    timeout_s: float = Field(default=20.0, gt=0)
    # Texts in a call, of all who ask at the same time, and how long they wait for each other.
    batch: int = Field(default=32, ge=1, le=2048)
    batch_wait_ms: float = Field(default=10.0, ge=0, le=1000)
