"""Where calls go: a route names a deployment, a deployment is one endpoint with one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from genai_prices.types import Provider
from pydantic import SecretStr

from processors.journal.entry import UnknownPolicy
from processors.prices.tariff import Price, Tariff

OnBreak = Literal["restart", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One OpenAI-compatible endpoint with one model.

    ``account`` names who is billed, never a key. ``max_tokens_parameter`` is what the endpoint calls the limit on
    generated tokens: newer OpenAI models want ``max_completion_tokens``.
    """

    name: str
    base_url: str
    model: str
    provider: str = "openai"
    account: str = ""
    api_key: SecretStr | None = None
    max_concurrency: int = 16
    context_tokens: int = 8192
    default_max_tokens: int = 512
    max_tokens_parameter: str = "max_tokens"
    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 60.0
    between_chunks_timeout_s: float = 20.0
    total_timeout_s: float = 90.0
    price: Tariff = field(default_factory=Price)
    # How its provider counts tokens; the library's, where it knows the provider.
    counting: Provider | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A way to a model. ``unknown_policy`` says whether a call whose outcome is unknown is made again.

    ``stream``: whether texts are published while the model writes them. ``on_break``: what follows when an attempt
    breaks off after some of its text became public: another attempt from the first character, or a failure.
    """

    name: str
    deployment: Deployment
    max_attempts: int = 3
    unknown_policy: UnknownPolicy = "repeat"
    stream: bool = True
    on_break: OnBreak = "restart"
