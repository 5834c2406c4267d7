"""Which price a deployment of the settings is booked at, and what an operator hears of it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from structlog.testing import capture_logs

from processors.complete.routes import Deployment
from processors.prices import UNPRICED
from schemas.records import Usage
from streams.deployed import embedding_terms, routes, say_embedding_price, say_prices
from streams.settings import Settings

AT = datetime(2026, 6, 1, tzinfo=UTC)
USAGE = Usage(prompt_tokens=1_000_000)


def deployment(prices: dict[str, Any] | None = None, **fields: Any) -> Deployment:
    return routes(settings(prices, **fields))["default"].deployment


def settings(prices: dict[str, Any] | None = None, embeddings: dict[str, Any] | None = None, **fields: Any) -> Settings:
    return Settings(
        stack="external",
        kafka={"bootstrap": "x:1"},
        registry={"url": "http://x"},
        postgres={"dsn": "postgresql://x"},
        embeddings={"base_url": "http://x/v1", "model": "none", **(embeddings or {})},
        deployments={"main": {"base_url": "http://x/v1", "model": "gpt-4o-mini", **fields}},
        routes={"default": {"deployment": "main"}},
        prices=prices or {},
    )


@pytest.mark.parametrize(
    ("prices", "fields", "source", "amount"),
    [
        ({"*/*": {"prompt": "7"}}, {"price": {"prompt": "3"}}, "settings deployments.main.price (prompt 3", "3"),
        ({"openai/gpt-*": {"prompt": "7"}}, {}, "settings prices.openai/gpt-* (prompt 7", "7"),
        ({"other/*": {"prompt": "7"}}, {}, "genai-prices", "0.15"),
        ({}, {"provider": "azure.ai.openai"}, "genai-prices", "0.15"),
        ({}, {"price": {}}, "settings deployments.main.price (prompt 0", "0"),
        ({}, {"model": "my-own"}, UNPRICED, "0"),
        ({}, {"provider": "llama_cpp"}, UNPRICED, "0"),
    ],
)
def test_the_deployment_s_own_price_then_the_table_then_the_library(
    prices: dict[str, Any], fields: dict[str, Any], source: str, amount: str
) -> None:
    price = deployment(prices, **fields).price
    assert price.source.startswith(source)
    assert price.amount(USAGE, AT) == price.most(1_000_000, 0, AT) == Decimal(amount)


def test_a_deployment_without_a_price_is_warned_of_with_the_remedy() -> None:
    with capture_logs() as said:
        say_prices([deployment(model="my-own"), deployment()])
    warned, told = said
    assert warned["log_level"] == "warning"
    assert 'prices."openai/my-own"' in warned["remedy"]
    assert (told["log_level"], told["price_source"].split()[0]) == ("info", "genai-prices")


SMALL = {"provider": "openai", "model": "text-embedding-3-small"}


@pytest.mark.parametrize(
    ("prices", "embeddings", "source", "amount"),
    [
        ({}, {"price": "0.5"}, "settings embeddings.price (prompt 0.5", "0.5"),
        ({"openai/text-*": {"prompt": "7"}}, {**SMALL, "price": "0.5"}, "settings embeddings.price", "0.5"),
        ({"openai/text-*": {"prompt": "7"}}, SMALL, "settings prices.openai/text-*", "7"),
        ({}, SMALL, "genai-prices", "0.02"),
    ],
)
def test_embeddings_have_their_own_price_then_the_table_s_then_the_library_s(
    prices: dict[str, Any], embeddings: dict[str, Any], source: str, amount: str
) -> None:
    terms = embedding_terms(settings(prices, embeddings))
    assert terms is not None and terms.tariff.source.startswith(source)
    assert terms.tariff.amount(USAGE, AT) == Decimal(amount)


@pytest.mark.parametrize(
    "embeddings",
    [{}, {"price": "0"}, {**SMALL, "price": "0"}, {"model": "text-embedding-3-small"}, {**SMALL, "model": "my-own"}],
)
def test_embeddings_that_cost_nothing_are_not_booked(embeddings: dict[str, Any]) -> None:
    assert embedding_terms(settings({}, embeddings)) is None


def test_a_provider_s_embeddings_without_a_price_are_warned_of_and_local_ones_are_not() -> None:
    with capture_logs() as said:
        for one in ({**SMALL, "model": "my-own"}, {}):
            given = settings({}, one)
            say_embedding_price(embedding_terms(given), given.embeddings)
    [warned] = said
    assert warned["log_level"] == "warning" and warned["remedy"] == "set embeddings.price"
