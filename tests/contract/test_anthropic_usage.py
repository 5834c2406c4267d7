"""Usage as Anthropic's messages API told it, against what others say that the responses cost."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

from processors.model.anthropic_assembly import chat_usage
from processors.prices.tokens import counted
from streams.deployed import routes
from tests.contract.test_prices import AT
from tests.support.settings import bare_settings

HALF_A_MICRO_DOLLAR = Decimal("0.0000005")


def test_native_usage_costs_what_it_should(shared_data: Path) -> None:
    priced = wrong = cached = 0
    for line in (shared_data / "model_prices" / "public" / "usage_to_price.jsonl").read_text().splitlines():
        row = json.loads(line)
        usage = row["body"].get("usage")
        for reading in row["extracted"]:
            for one in reading["extractors"]:
                native = (one["provider_id"], one["api_flavor"]) == ("anthropic", "default")
                if not native or "input_price" not in one or "input_tokens" not in (usage or {}):
                    continue
                priced += 1
                cached += bool(usage.get("cache_read_input_tokens"))
                expected = Decimal(one["input_price"]) + Decimal(one["output_price"])
                wrong += abs(booked(row["model"], usage) - expected) >= HALF_A_MICRO_DOLLAR
    print(f"{priced} responses, {cached} with cached tokens, {wrong} booked at another amount")  # noqa: T201
    assert priced > 50 and cached > 0
    assert wrong <= priced * 0.01


def booked(model: str, usage: dict[str, object]) -> Decimal:
    """What the complete stage books for the usage, at a deployment as settings have it."""
    deployments = {"claude": {"base_url": "https://c", "provider": "anthropic", "model": model}}
    settings = bare_settings(deployments=deployments, routes={"default": {"deployment": "claude"}})
    deployment = routes(settings)["default"].deployment
    told = counted(chat_usage(usage) or {}, deployment.counting)
    assert deployment.api == "anthropic" and told is not None
    return deployment.price.amount(told, AT)
