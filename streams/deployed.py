"""The routes of the settings with their deployments, keys and prices, as the complete stage takes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import structlog
from pydantic import SecretStr

from processors.complete.routes import Cause, Deployment, Group, Route, Strategy
from processors.prices import UNPRICED, Price, PriceBook, PriceTable
from processors.prices.library import Library
from processors.spending.metered import Terms
from schemas.errors import ConfigurationError
from streams.complexity import complexity_policy
from streams.embedding_settings import EmbeddingSettings
from streams.keyless import lacks_key
from streams.metrics import Metrics
from streams.route_settings import DeploymentSettings, PriceSettings, fallback_groups
from streams.settings import Settings
from streams.several import cascade_policy, fan_out_policy

log = structlog.get_logger(__name__)


def embedding_terms(settings: Settings) -> Terms | None:
    """What the embedding endpoint is paid; ``None`` where its calls cost nothing, and none of them is booked.

    Its own price wins, then the operator's table and the price library where its provider is named.
    """
    ours = settings.embeddings
    own = Price(prompt=ours.price, name="embeddings.price") if ours.price else None
    if own is None and (ours.price is not None or not ours.provider):
        return None
    tariff = own or _book(settings, Library()).tariff(ours.provider, ours.model)
    if not tariff.most(1_000_000, 0, datetime.now(UTC)):
        return None
    return Terms(tariff=tariff, provider=ours.provider, deadline_s=ours.timeout_s)


def say_embedding_price(terms: Terms | None, settings: EmbeddingSettings) -> None:
    """Log the price that embeddings are booked at, and warn where a provider is named and its price is not known."""
    told = {"provider": settings.provider, "model": settings.model}
    if terms is not None:
        log.info("price of embeddings", **told, price_source=terms.tariff.source)
    elif settings.provider and settings.price is None:
        log.warning("embeddings have no price: they are not booked", **told, remedy="set embeddings.price")


def _book(settings: Settings, library: Library) -> PriceBook:
    return PriceBook(PriceTable({name: _price(price) for name, price in settings.prices.items()}), library=library)


def routes(settings: Settings) -> dict[str, Route]:
    """The routes of the settings, with their deployments and prices.

    Raises ``ConfigurationError`` for a key that is not set.
    """
    library = Library()
    book = _book(settings, library)
    deployments = {
        name: _deployment(settings, name, deployment, book, library)
        for name, deployment in settings.deployments.items()
    }
    made = {name: _route(name, settings, deployments) for name in settings.routes}
    return {
        name: replace(route, complexity=complexity_policy(settings.routes[name], made, deployments, name=name))
        for name, route in made.items()
    }


def _route(name: str, settings: Settings, deployments: Mapping[str, Deployment]) -> Route:
    route, by_cause = settings.routes[name], settings.routes[name].fallbacks.by_cause()
    first, *others = (deployments[one] for one in route.names(settings.deployments))

    def group(names: tuple[str, ...], strategy: Strategy) -> Group:
        return Group(deployments=tuple(deployments[one] for one in names), strategy=strategy)

    return Route(
        name=name,
        deployment=first,
        others=tuple(others),
        strategy=route.strategy,
        fallbacks={
            cast("Cause", cause): tuple(
                group(*one) for one in fallback_groups(name, cause, settings.routes, settings.deployments)
            )
            for cause in by_cause
        },
        patience_s=route.patience_s,
        last_resort=route.last_resort,
        max_attempts=route.max_attempts,
        repair_attempts=route.repair_attempts,
        repair=route.repair,
        unknown_policy="fail" if route.unknown_policy == "never-repeat" else route.unknown_policy,
        stream=route.stream,
        on_break=route.on_break,
        hedge=None if route.hedge is None else route.hedge.policy(),
        cascade=cascade_policy(name, settings, deployments),
        fan_out=fan_out_policy(name, settings, deployments),
    )


def _deployment(
    whole: Settings, name: str, settings: DeploymentSettings, book: PriceBook, library: Library
) -> Deployment:
    values = settings.model_dump(exclude={"api", "api_key_env", "api_keys_env", "price", "batch"})
    own = None if settings.price is None else _price(settings.price, name=f"deployments.{name}.price")
    price = book.tariff(settings.provider, settings.model, own=own)
    # What Anthropic counts comes from its client as a chat completion's usage, whatever the library knows of it.
    counting = None if settings.spoken == "anthropic" else library.provider(settings.provider)
    keys = _keys(whole, name, settings)
    return Deployment(
        name=name,
        api=settings.spoken,
        api_key=keys[0] if keys else None,
        api_keys=keys,
        price=price,
        counting=counting,
        batch=None if settings.batch is None else settings.batch.policy(),
        **values,
    )


class PoolMetrics:
    """A ``PoolObserver`` that counts, and logs what an operator has to see to."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_limit(self, deployment: str, calls: int) -> None:
        self._metrics.call_limit.labels(deployment).set(calls)

    def on_breaker(self, deployment: str, *, open_: bool) -> None:
        if open_:
            log.warning("the deployment is left alone: it keeps failing", deployment=deployment)
        else:
            log.info("the deployment is asked", deployment=deployment)
        self._metrics.breaker_open.labels(deployment).set(open_)

    def on_key_refused(self, deployment: str, number: int, code: str) -> None:
        log.error(
            "a key is refused and set aside",
            deployment=deployment,
            key=number,
            error_code=code,
            remedy=f"correct key {number} of deployments.{deployment} and start the worker again",
        )

    def on_keys_aside(self, deployment: str, keys: int) -> None:
        self._metrics.keys_aside.labels(deployment).set(keys)

    def on_fallback(self, route: str, cause: str) -> None:
        self._metrics.fallbacks.labels(route, cause).inc()

    def on_last_resort(self, route: str) -> None:
        self._metrics.last_resorts.labels(route).inc()


def say_prices(deployments: Iterable[Deployment]) -> None:
    """Log the price that every deployment is booked at, and warn of one that nobody gave a price."""
    for one in deployments:
        told = {"deployment": one.name, "provider": one.provider, "model": one.model}
        if one.price.source == UNPRICED:
            log.warning(
                "the deployment has no price: its calls are booked at 0",
                **told,
                remedy=f'set deployments.{one.name}.price or prices."{one.provider}/{one.model}"',
            )
        else:
            log.info("price", **told, price_source=one.price.source)


def _price(settings: PriceSettings, *, name: str = "") -> Price:
    return Price(**settings.model_dump(), name=name)


def check_keys(settings: Settings) -> None:
    """Check that a public endpoint has a key, and that the variables which hold keys are set.

    Raises ``ConfigurationError`` with file and line.
    """
    for name, deployment in settings.deployments.items():
        _keys(settings, name, deployment)


def _keys(whole: Settings, name: str, settings: DeploymentSettings) -> tuple[SecretStr, ...]:
    if lacks_key(settings):
        place = whole.at("deployments", name, "base_url")
        raise ConfigurationError(
            f"{place} is public and the deployment names no key; set api_key_env to the variable that holds it, or "
            "api_keys_env = [] where none is needed"
        )
    field = "api_keys_env" if settings.api_keys_env else "api_key_env"
    for variable in settings.key_variables:
        if not os.environ.get(variable):
            place = whole.at("deployments", name, field)
            raise ConfigurationError(f"{place} names {variable}, which is not set; set it to the key")
    return tuple(SecretStr(os.environ[variable]) for variable in settings.key_variables)
