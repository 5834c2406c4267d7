"""What is scored comes from the settings, and settings that would score nothing are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from streams.evaluate_settings import EvaluateSettings
from streams.ports import evaluate_policy
from streams.settings import Settings
from streams.stages import STAGES

OFF = dict.fromkeys(("groundedness", "support", "relevance", "length", "format"), False)


def settings(**changes: Any) -> Settings:
    nowhere = "http://127.0.0.1:9/v1"
    values: dict[str, Any] = {
        "stack": "external",
        "kafka": {"bootstrap": "b:1"},
        "registry": {"url": "http://r"},
        "postgres": {"dsn": "postgresql://p"},
        "embeddings": {"base_url": nowhere, "model": "m"},
        "deployments": {"main": {"base_url": nowhere, "model": "m"}},
        "routes": {"default": {"deployment": "main"}},
    }
    return Settings(**{**values, **changes})


def test_rates_and_switches_reach_the_policy() -> None:
    own = {"rate": 0.2, "tenants": {"acme": {"rate": 1}}, "routes": {"default": {"rate": 0}}, "relevance": False}
    policy = evaluate_policy(settings(evaluate=own))
    assert (policy.sampling.rate, policy.sampling.tenants, policy.sampling.routes) == (0.2, {"acme": 1}, {"default": 0})
    assert not policy.relevance and policy.support


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (OFF, "every scorer is off"),
        ({"rate": 1.5}, "less than or equal to 1"),
        ({"least_words": 10, "most_words": 5}, "least_words"),
        ({"tenants": {"acme": {"share": 1}}}, "share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        EvaluateSettings(**changes)


def test_a_rate_for_a_route_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"evaluate\.routes\.nope is no route"):
        settings(evaluate={"routes": {"nope": {"rate": 1}}})


def test_every_scorer_may_be_off_where_nothing_is_sampled() -> None:
    assert EvaluateSettings(rate=0, **OFF).rate == 0


def test_answers_that_wait_take_no_slots_of_feedback() -> None:
    stage = STAGES["evaluate"]
    assert not stage.shared_slots
    assert {source.kind for source in stage.inputs} == {"answers", "feedback"}
