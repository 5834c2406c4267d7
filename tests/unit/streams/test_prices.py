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
from streams.deployed import routes, say_prices
from streams.settings import Settings

AT = datetime(2026, 6, 1, tzinfo=UTC)
USAGE = Usage(prompt_tokens=1_000_000)


def deployment(prices: dict[str, Any] | None = None, **fields: Any) -> Deployment:
    settings = Settings(
        stack="external",
        kafka={"bootstrap": "x:1"},
        registry={"url": "http://x"},
        postgres={"dsn": "postgresql://x"},
        embeddings={"base_url": "http://x/v1", "model": "none"},
        deployments={"main": {"base_url": "http://x/v1", "model": "gpt-4o-mini", **fields}},
        routes={"default": {"deployment": "main"}},
        prices=prices or {},
    )
    return routes(settings)["default"].deployment


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
