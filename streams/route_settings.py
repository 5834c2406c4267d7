"""The settings of deployments and routes, and what has to hold between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

from pydantic import Field, model_validator

from processors.complete.resort import check_resort
from schemas.errors import ConfigurationError
from streams.batch_settings import BatchSettings
from streams.cache_settings import CacheSettings
from streams.complexity_settings import ComplexitySettings
from streams.credentials import Section
from streams.hedge_settings import HedgeSettings, unfit_hedge
from streams.several_settings import CascadeSettings, FanOutSettings

Api = Literal["openai", "azure", "responses", "anthropic"]
Strategy = Literal["weighted", "least_busy", "lowest_latency", "cheapest"]
Streaming = Literal["always", "asked"]
# What a fallback's name begins with where it is a route; else it is a deployment.
ROUTE_PREFIX = "route/"
# What a class's target begins with where it is every deployment with a tag.
TAG_PREFIX = "tag/"


class FieldError(ValueError):
    """A setting that does not fit another one; ``path`` is the field, from the top."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        super().__init__(f"{'.'.join(path)} {message}")
        self.path, self.said = path, message


class PriceSettings(Section):
    """US dollars per million tokens; what a cached token costs is the prompt's price where it is left out."""

    prompt: Decimal = Field(default=Decimal(0), ge=0, le=1_000_000)
    completion: Decimal = Field(default=Decimal(0), ge=0, le=1_000_000)
    cached_prompt: Decimal | None = Field(default=None, ge=0, le=1_000_000)
    cache_write: Decimal | None = Field(default=None, ge=0, le=1_000_000)


class DeploymentSettings(Section):
    """One endpoint with one model. ``api_key_env`` names the variable that holds the key, ``api_keys_env`` several.

    ``api_keys_env = []`` says that a public endpoint takes none.
    """

    base_url: str
    model: str = Field(min_length=1)
    # Who is behind it: prices go by it, and so does what it speaks where ``api`` is left out.
    provider: str = "openai"
    api: Api | None = None
    # Azure's api-version, Anthropic's anthropic-version; each has a default.
    api_version: str | None = Field(default=None, min_length=1)
    # Newer models of OpenAI take no ``max_tokens``.
    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    # ``asked``: only what is published as it comes streams; the rest is one body, with a deadline for all alone.
    stream: Streaming = "always"
    api_key_env: str | None = None
    api_keys_env: tuple[str, ...] = ()
    # Who is billed: an organisation or project, never a key.
    account: str = ""
    # The next three hold for each worker process.
    max_concurrency: int = Field(default=16, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    # Its share of a route's calls, against the others' weights.
    weight: float = Field(default=1.0, ge=0, le=1_000_000)
    tags: tuple[str, ...] = ()
    context_tokens: int = Field(default=8192, ge=256)
    default_max_tokens: int = Field(default=512, ge=1)
    connect_timeout_s: float = Field(default=5.0, gt=0)
    first_token_timeout_s: float = Field(default=60.0, gt=0)
    between_chunks_timeout_s: float = Field(default=20.0, gt=0)
    total_timeout_s: float = Field(default=90.0, gt=0)
    # Where its provider tells what became of an attempt, for ``unknown_policy = "reconcile"``.
    reconcile_url: str | None = Field(default=None, pattern=r"^https?://.*\{attempt_id\}")
    # Wins over ``prices`` and over the price library.
    price: PriceSettings | None = None
    # Where its provider has OpenAI's Batch API.
    batch: BatchSettings | None = None

    @model_validator(mode="after")
    def _keys(self) -> DeploymentSettings:
        if self.api_key_env is not None and self.api_keys_env:
            raise FieldError(("api_keys_env",), "and api_key_env: set one of them")
        if len(set(self.api_keys_env)) < len(self.api_keys_env):
            raise FieldError(("api_keys_env",), "names a variable twice")
        if self.batch is not None and self.spoken != "openai":
            raise FieldError(("batch",), f"needs api = openai, and this deployment speaks {self.spoken}; leave it out")
        return self

    @property
    def spoken(self) -> Api:
        """What the endpoint speaks: as ``api`` says, else Azure's or Anthropic's own where they are the provider.

        Azure's later addresses, which end in ``/v1``, are OpenAI's own API.
        """
        if self.api is not None:
            return self.api
        if self.provider == "azure":
            return "openai" if self.base_url.rstrip("/").endswith("/v1") else "azure"
        return "anthropic" if self.provider == "anthropic" else "openai"

    @property
    def key_variables(self) -> tuple[str, ...]:
        """The variables that hold its keys; none where it needs no key."""
        return self.api_keys_env or (() if self.api_key_env is None else (self.api_key_env,))


class FallbackSettings(Section):
    """Where a request goes that its route's own deployments don't answer, by cause and in this order.

    A name is a deployment's, or a route's behind ``route/``.
    """

    rate_limit: tuple[str, ...] = ()
    outage: tuple[str, ...] = ()
    context_too_long: tuple[str, ...] = ()
    content_refused: tuple[str, ...] = ()
    malformed_output: tuple[str, ...] = ()

    def by_cause(self) -> dict[str, tuple[str, ...]]:
        """The names by cause; causes without any are left out."""
        return {cause: names for cause, names in self.model_dump().items() if names}


class RouteSettings(Section):
    """A way to a model: a deployment, several of them, or all that have some ``tags``.

    ``unknown_policy`` is for a call whose outcome is unknown after a crash or a timeout; ``never-repeat`` is another
    name for ``fail``.
    """

    deployment: str | None = None
    deployments: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    strategy: Strategy = "weighted"
    # Other names under which requests may ask for it.
    aliases: tuple[str, ...] = ()
    fallbacks: FallbackSettings = FallbackSettings()
    # How long a request waits for its own deployments to be available before it goes to a fallback.
    patience_s: float = Field(default=5.0, ge=0, le=600)
    # What is answered when nothing else can be: a template. Without it the request waits, and fails in the end.
    last_resort: str | None = Field(default=None, min_length=1, max_length=100_000)
    prompt: str = "answer"
    k: int = Field(default=3, ge=0, le=50)
    minimum_score: float = Field(default=0.2, ge=-1, le=1)
    # At the route's own deployments; every fallback is tried once more.
    max_attempts: int = Field(default=3, ge=1, le=20)
    # How often a reply is asked for once more that is not the JSON that the request wanted, beside max_attempts.
    repair_attempts: int = Field(default=1, ge=0, le=5)
    # Whether JSON that is almost right is mended before that.
    repair: bool = True
    unknown_policy: Literal["repeat", "fail", "never-repeat", "reconcile"] = "repeat"
    # Whether texts are published while the model writes them, for requests that want a stream.
    stream: bool = True
    # When an attempt breaks off after some of its text became public: another one from the first character, or an end.
    on_break: Literal["restart", "failed"] = "restart"
    cache: CacheSettings = CacheSettings()
    # A second call beside a slow first one; without this section there is none.
    hedge: HedgeSettings | None = None
    # Where requests go by how hard they are; without this section all of them take the route.
    complexity: ComplexitySettings | None = None
    cascade: CascadeSettings | None = None
    fan_out: FanOutSettings | None = None

    @model_validator(mode="after")
    def _one_way(self) -> RouteSettings:
        given = [name for name in ("deployment", "deployments", "tags") if getattr(self, name)]
        if len(given) != 1:
            said = f"sets {' and '.join(given)}" if given else "names no deployment"
            raise ValueError(f"{said}; set one of deployment, deployments and tags")
        if len(set(self.deployments)) < len(self.deployments):
            raise FieldError(("deployments",), "names a deployment twice")
        unfit = unfit_hedge(max_attempts=self.max_attempts, unknown_policy=self.unknown_policy)
        if self.hedge is not None and unfit is not None:
            raise FieldError(("hedge",), unfit)
        if self.unknown_policy == "reconcile" and self.max_attempts == 1:
            raise FieldError(
                ("max_attempts",), 'has to be 2 at least with unknown_policy = "reconcile", which asks first'
            )
        return self

    def names(self, deployments: Mapping[str, DeploymentSettings]) -> tuple[str, ...]:
        """The route's own deployments, in order; not every one of them need be there."""
        if self.tags:
            return tuple(name for name, one in deployments.items() if set(self.tags) <= set(one.tags))
        return self.deployments or ((self.deployment,) if self.deployment else ())


def over_embedded(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The embedded stack's settings less what a route of the file replaces, so that the two are not taken together."""
    routes = dict(under.get("routes", {}))
    for name, route in (over.get("routes") or {}).items():
        if isinstance(route, Mapping) and ("deployments" in route or "tags" in route):
            routes.pop(name, None)
    return {**under, "routes": routes} if "routes" in under else under


def reached(
    name: str,
    routes: Mapping[str, RouteSettings],
    deployments: Mapping[str, DeploymentSettings],
    *,
    classes: bool = True,
) -> frozenset[str]:
    """Every deployment that a request of the route may come to; without ``classes``, under its own settings."""
    route = routes[name]
    found = set(route.names(deployments))
    for target in () if route.cascade is None else route.cascade.to:
        stronger = routes.get(_route_of(target) or "")
        found |= {target} if stronger is None else set(stronger.names(deployments))
    for target in _targets(route):
        way = _route_of(target)
        found |= {target} if way is None else reached(way, routes, deployments, classes=False)
    for targets in route.complexity.targets().values() if classes and route.complexity is not None else ():
        way = _route_of(targets[0])
        found |= set(class_names(targets, routes, deployments))
        found |= set() if way is None else reached(way, routes, deployments, classes=False)
    return frozenset(found)


def class_names(
    targets: Sequence[str], routes: Mapping[str, RouteSettings], deployments: Mapping[str, Any]
) -> tuple[str, ...]:
    """The deployments that targets stand for, each once and in order; what leads nowhere is left out."""
    names: list[str] = []
    for target in targets:
        route, tag = routes.get(_route_of(target) or ""), target.removeprefix(TAG_PREFIX)
        if route is not None:
            names.extend(route.names(deployments))
        elif target.startswith(TAG_PREFIX):
            names.extend(name for name, one in deployments.items() if tag in one.tags)
        elif target in deployments:
            names.append(target)
    return tuple(dict.fromkeys(names))


def check_routes(routes: Mapping[str, RouteSettings], deployments: Mapping[str, DeploymentSettings]) -> None:
    """Check that every name leads somewhere, that no way goes in a circle, and that there is a weight to choose by.

    Raises ``FieldError``, which names the field.
    """
    for name, route in routes.items():
        _check_own(name, route, deployments)
        for cause, targets in route.fallbacks.by_cause().items():
            for target in targets:
                _check_target(("routes", name, "fallbacks", cause), target, routes, deployments)
    _check_aliases(routes)
    for name in routes:
        _check_circle(name, (name,), routes)
    for name, route in routes.items():
        own = reached(name, routes, deployments, classes=False)
        mute = [one for one in sorted(own) if deployments[one].reconcile_url is None]
        if route.unknown_policy == "reconcile" and mute:
            raise FieldError(("routes", name, "unknown_policy"), f"needs deployments.{mute[0]}.reconcile_url")


def fallback_groups(
    name: str, cause: str, routes: Mapping[str, RouteSettings], deployments: Mapping[str, DeploymentSettings]
) -> tuple[tuple[tuple[str, ...], Strategy], ...]:
    """The deployments to fall back to for a cause, in order, each group with its strategy.

    A route stands for its own deployments and, behind them, its own fallbacks for that cause.
    """
    groups: list[tuple[tuple[str, ...], Strategy]] = []
    for target in routes[name].fallbacks.by_cause().get(cause, ()):
        route = _route_of(target)
        if route is None:
            groups.append(((target,), "weighted"))
        else:
            groups.append((routes[route].names(deployments), routes[route].strategy))
            groups.extend(fallback_groups(route, cause, routes, deployments))
    return tuple(dict.fromkeys(groups))


def check_overrides(tenant: str, overrides: Mapping[str, str], routes: Mapping[str, RouteSettings]) -> None:
    """Check a tenant's own routes. Raises ``FieldError``."""
    for name, instead in overrides.items():
        path = ("tenants", tenant, "routes", name)
        if name not in routes:
            raise FieldError(path, "stands for no route; write the name of the route that it replaces")
        if instead not in routes:
            raise FieldError(path, f"is {instead!r}, which is no route")


def _check_own(name: str, route: RouteSettings, deployments: Mapping[str, DeploymentSettings]) -> None:
    field = "deployment" if route.deployment else "deployments" if route.deployments else "tags"
    own = route.names(deployments)
    for one in own:
        if one not in deployments:
            raise FieldError(("routes", name, field), f"is {one!r}, which is no deployment")
    if not own:
        raise FieldError(("routes", name, field), f"no deployment has {', '.join(route.tags)}")
    if route.last_resort is not None:
        try:
            check_resort(route.last_resort)
        except ConfigurationError as error:
            raise FieldError(("routes", name, "last_resort"), str(error)) from None
    if not sum(deployments[one].weight for one in own):
        raise FieldError(("routes", name, field), "the weights of its deployments sum to zero; give one of them more")
    longest_s = max(deployments[one].total_timeout_s for one in own)
    if route.hedge is not None and route.hedge.floor_s >= longest_s:
        said = f"is {route.hedge.floor_s:g} s, when every call of the route has ended ({longest_s:g} s)"
        raise FieldError(("routes", name, "hedge", "floor_s"), said)
    # The default is no one's wish; it counts until enough was measured.
    said_so = route.hedge is not None and "before_s" in route.hedge.model_fields_set
    if route.hedge is not None and said_so and route.hedge.before_s >= longest_s:
        said = f"is {route.hedge.before_s:g} s, when every call of the route has ended ({longest_s:g} s)"
        raise FieldError(("routes", name, "hedge", "before_s"), said)


def _check_target(
    path: tuple[str, ...],
    target: str,
    routes: Mapping[str, RouteSettings],
    deployments: Mapping[str, DeploymentSettings],
) -> None:
    route = _route_of(target)
    if route is not None and route not in routes:
        raise FieldError(path, f"names {target!r}, which is no route")
    if route is None and target not in deployments:
        hint = f"; write {ROUTE_PREFIX}{target} for the route" if target in routes else ""
        raise FieldError(path, f"names {target!r}, which is no deployment{hint}")


def _check_aliases(routes: Mapping[str, RouteSettings]) -> None:
    taken = {name: name for name in routes}
    for name, route in routes.items():
        for alias in route.aliases:
            if alias in taken:
                raise FieldError(("routes", name, "aliases"), f"has {alias!r}, which route {taken[alias]} has already")
            taken[alias] = name


def _check_circle(name: str, way: tuple[str, ...], routes: Mapping[str, RouteSettings]) -> None:
    for cause, targets in routes[name].fallbacks.by_cause().items():
        for route in filter(None, map(_route_of, targets)):
            if route in way:
                circle = " -> ".join((*way[way.index(route) :], route))
                raise FieldError(("routes", name, "fallbacks", cause), f"goes in a circle: {circle}")
            _check_circle(route, (*way, route), routes)


def _targets(route: RouteSettings) -> Iterator[str]:
    lists: Iterable[tuple[str, ...]] = route.fallbacks.by_cause().values()
    for targets in lists:
        yield from targets


def _route_of(target: str) -> str | None:
    return target.removeprefix(ROUTE_PREFIX) if target.startswith(ROUTE_PREFIX) else None
