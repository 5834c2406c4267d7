"""Settings of limits, budgets and caps: what they mean, and that what can't be meant is refused with its field."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from processors.admit.limits import DEFAULT_TIERS, NO_RATES, LimitPolicy
from processors.budgets.rule import Budget
from streams.budget_settings import budgets_of
from streams.settings import Settings
from tests.support.settings import bare_settings


def policy(settings: Settings) -> LimitPolicy:
    own = {name: tenant.limits for name, tenant in settings.tenants.items()}
    return settings.limits.policy(own, {"default": 512})


def test_without_settings_tiers_have_their_defaults_and_nobody_a_cap_or_budget() -> None:
    settings = bare_settings()
    assert policy(settings).tiers == DEFAULT_TIERS and policy(settings).everyone == NO_RATES
    assert settings.caps == {} and budgets_of(settings.budgets) == ()


def test_a_tier_that_is_named_has_what_is_written_and_a_tenants_own_rates_go_before_it() -> None:
    settings = bare_settings(
        limits={"tiers": {"free": {"over": "queue", "user": {"tokens_per_minute": 600}}}},
        tenants={
            "acme": {"tier": "pro", "limits": {"requests_per_minute": 300, "requests_burst": 5}, "max_in_flight": 9},
            "globex": {},
        },
    )
    found = policy(settings)
    assert found.of("free").queue and found.of("free").tenant == NO_RATES
    assert found.of("pro") == DEFAULT_TIERS["pro"]
    rate = found.tenants["acme"].requests
    assert rate is not None and (rate.per_minute, rate.burst, rate.per_s) == (300, 5, 5)
    assert settings.caps == {"acme": 9}


def test_a_budget_is_taken_as_it_is_written_and_money_is_no_float() -> None:
    settings = bare_settings(budgets={"users": {"period": "day", "tenant": "acme", "user": "*", "hard_usd": "0.1"}})
    assert budgets_of(settings.budgets) == (
        Budget(name="users", period="day", only={"tenant": "acme", "user": "*"}, hard_usd=Decimal("0.1")),
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"limits": {"tiers": {"free": {"over": "drop"}}}}, "limits.tiers.free.over"),
        ({"limits": {"everyone": {"requests_per_minute": 0}}}, "limits.everyone.requests_per_minute"),
        ({"limits": {"everyone": {"tokens_burst": 9}}}, "set tokens_per_minute too"),
        ({"limits": {"everyone": {"per_second": 9}}}, "limits.everyone.per_second"),
        ({"tenants": {"acme": {"max_in_flight": 0}}}, "tenants.acme.max_in_flight"),
        ({"budgets": {"b": {"period": "day"}}}, "needs hard_usd, soft_usd or both"),
        ({"budgets": {"b": {"period": "week", "hard_usd": 1}}}, "budgets.b.period"),
        ({"budgets": {"b": {"period": "day", "hard_usd": -1}}}, "budgets.b.hard_usd"),
        ({"budgets": {"b": {"period": "day", "hard_usd": 1, "soft_usd": 1}}}, "soft_usd has to be less"),
        ({"budgets": {"b": {"period": "day", "hard_usd": 1, "alert_at": 2}}}, "budgets.b.alert_at"),
        (
            {"budgets": {"b": {"period": "day", "tenant": "x", "hard_usd": 1}}, "trust_producers": False},
            "budgets.b.tenant is 'x'",
        ),
    ],
)
def test_what_can_not_be_meant_is_refused_with_its_field(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        bare_settings(**changes)
    problems = refused.value.errors()
    assert any(said in ".".join(map(str, one["loc"])) + ": " + one["msg"] for one in problems), problems
