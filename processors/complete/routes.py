"""Where calls go: a route names deployments and what to fall back to; a deployment is one endpoint with one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from genai_prices.types import Provider
from pydantic import SecretStr

from processors.batchapi.policy import BatchPolicy
from processors.complete.policies import CascadePolicy, ComplexityPolicy, FanOutPolicy
from processors.journal.entry import UnknownPolicy
from processors.prices.tariff import Price, Tariff

OnBreak = Literal["restart", "failed"]
Strategy = Literal["weighted", "least_busy", "lowest_latency", "cheapest"]
# OpenAI's chat completions, Azure's form of them, OpenAI's Responses API, Anthropic's messages.
Api = Literal["openai", "azure", "responses", "anthropic"]
Streaming = Literal["always", "asked"]
# Why a request goes to a fallback, or on to a stronger model.
Cause = Literal["rate_limit", "outage", "context_too_long", "content_refused", "malformed_output", "cascade"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One endpoint with one model. ``api`` is what it speaks, in ``api_version`` where that has versions.

    ``account`` names who is billed, never a key. ``max_tokens_parameter`` is what the endpoint calls the limit on
    generated tokens: newer OpenAI models want ``max_completion_tokens``. Of several ``api_keys`` each call uses one:
    its deployment has that as ``api_key``. Limits are for one worker process. ``stream``: whether every reply streams,
    or only what somebody listens to.
    """

    name: str
    base_url: str
    model: str
    provider: str = "openai"
    api: Api = "openai"
    api_version: str | None = None
    account: str = ""
    api_key: SecretStr | None = None
    api_keys: tuple[SecretStr, ...] = field(default=(), compare=False)
    max_concurrency: int = 16
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    weight: float = 1.0
    tags: tuple[str, ...] = ()
    context_tokens: int = 8192
    default_max_tokens: int = 512
    max_tokens_parameter: str = "max_tokens"
    stream: Streaming = "always"
    # Where its provider tells what became of an attempt; holds ``{attempt_id}``.
    reconcile_url: str | None = None
    connect_timeout_s: float = 5.0
    first_token_timeout_s: float = 60.0
    between_chunks_timeout_s: float = 20.0
    total_timeout_s: float = 90.0
    price: Tariff = field(default_factory=Price)
    # Where it offers batches, and for which lanes its calls go by them.
    batch: BatchPolicy | None = None
    # How its provider counts tokens; the library's, where it knows the provider.
    counting: Provider | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Deployments that stand for each other, and how one of them is chosen."""

    deployments: tuple[Deployment, ...]
    strategy: Strategy = "weighted"


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePolicy:
    """When a second call is sent beside the first, which has brought nothing yet.

    After the ``quantile`` of what recent calls took to begin, ``floor_s`` at least; with fewer than
    ``minimum_samples`` of them after ``before_s``. ``share``: of a worker's calls, no more than this are hedged.
    """

    quantile: float = 0.95
    floor_s: float = 0.5
    minimum_samples: int = 50
    before_s: float = 5.0
    share: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A way to a model. ``unknown_policy`` says whether a call whose outcome is unknown is made again.

    Its own deployments are ``deployment`` and the ``others``, tried ``max_attempts`` times together. ``fallbacks`` are
    tried after them by cause, each once; a request waits ``patience_s`` before that for its own to be available.
    ``last_resort`` is the template of the answer that is given when none of them can be had.

    ``stream``: whether texts are published while the model writes them. ``on_break``: what follows when an attempt
    breaks off after some of its text became public: another attempt from the first character, or a failure.

    ``repair_attempts``: how often a reply is asked for once more that is not the JSON that was wanted, beside
    ``max_attempts``. ``repair``: whether JSON that is almost right is mended before that.

    With ``cascade`` a reply of its own deployments may be followed by one of a stronger model; with ``fan_out`` several
    calls are made for each request. Either needs whole texts: such a route does not stream.
    """

    name: str
    deployment: Deployment
    others: tuple[Deployment, ...] = ()
    strategy: Strategy = "weighted"
    fallbacks: Mapping[Cause, tuple[Group, ...]] = field(default_factory=dict, hash=False)
    patience_s: float = 5.0
    last_resort: str | None = None
    max_attempts: int = 3
    repair_attempts: int = 1
    repair: bool = True
    unknown_policy: UnknownPolicy = "repeat"
    stream: bool = True
    on_break: OnBreak = "restart"
    # None: never.
    hedge: HedgePolicy | None = None
    cascade: CascadePolicy | None = None
    fan_out: FanOutPolicy | None = None
    # None: every request takes this route, however hard it is.
    complexity: ComplexityPolicy | None = None

    @property
    def own(self) -> Group:
        """Its own deployments."""
        return Group(deployments=(self.deployment, *self.others), strategy=self.strategy)

    @property
    def answering(self) -> tuple[Deployment, ...]:
        """Those whose answers are what the route is for: its own deployments and the stronger ones of its cascade."""
        stronger = (one for group in self._stronger for one in group.deployments)
        return tuple({one.name: one for one in (*self.own.deployments, *stronger)}.values())

    @property
    def deployments(self) -> tuple[Deployment, ...]:
        """Every deployment that a request may come to, each once, its own first."""
        fallen = (one for groups in self.fallbacks.values() for group in groups for one in group.deployments)
        classes = () if self.complexity is None else self.complexity.routes.values()
        classed = (one for route in classes for one in route.deployments)
        return tuple({one.name: one for one in (*self.answering, *fallen, *classed)}.values())

    @property
    def most_attempts(self) -> int:
        """How many attempts a call may take, fallbacks and stronger models included."""
        fallen = {group for groups in self.fallbacks.values() for group in groups}
        return self.max_attempts + len(fallen) + len(self._stronger)

    @property
    def live(self) -> bool:
        """Whether its texts may be published while they are written."""
        return self.stream and self.cascade is None and self.fan_out is None

    @property
    def _stronger(self) -> tuple[Group, ...]:
        return () if self.cascade is None else self.cascade.groups
