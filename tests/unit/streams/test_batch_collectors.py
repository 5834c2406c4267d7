"""Whatever a call may be handed over for has a collector in the worker."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool
from structlog.testing import capture_logs

from processors.budgets.port import FakeBudgets
from processors.clock import FakeClock
from processors.complete.purse import Guard
from processors.control import FakeControl
from processors.failpoints import Unarmed
from processors.model import FakeModelClient
from processors.postgres import Database
from schemas.codec import Codec
from streams.batching import Batching
from streams.deployed import routes
from streams.metrics import Metrics
from tests.support.enrichments import ACCEPTED
from tests.support.settings import NOWHERE, bare_settings


async def batching(ours: dict[str, Any], *, lane: str = "bulk") -> Batching:
    """The batches of a worker with these routes and the deployments plain, cheap, strong and other."""
    base = {"base_url": NOWHERE, "provider": "openai"}
    deployments = {
        "plain": {"base_url": NOWHERE, "model": "p"},
        **{name: {**base, "model": name, "batch": {"lanes": [name, "bulk"]}} for name in ("cheap", "strong", "other")},
    }
    clock = FakeClock(ACCEPTED)
    return Batching(
        routes(bare_settings(deployments=deployments, routes=ours)),
        FakeModelClient(),
        Database(AsyncConnectionPool("postgresql://nowhere/db", open=False), transaction_timeout_s=1.0),
        lane=lane,
        owner="w1",
        codec=Codec.offline(),
        clock=clock,
        control=FakeControl(),
        guard=Guard(FakeBudgets(clock), (), clock=clock, hold_s=60.0),
        metrics=Metrics(),
        failpoints=Unarmed(),
        lease_s=15.0,
    )


@pytest.mark.parametrize(
    ("ours", "collected"),
    [
        ({"default": {"deployment": "plain"}}, set()),
        ({"default": {"deployment": "cheap"}, "more": {"deployments": ["plain", "other"]}}, {"cheap", "other"}),
        ({"default": {"deployment": "plain", "complexity": {"complex": ["strong"]}}}, {"strong"}),
        (
            {
                "default": {"deployment": "cheap", "complexity": {"simple": ["plain"], "complex": ["route/best"]}},
                "best": {"deployments": ["strong", "other"]},
            },
            {"cheap", "strong", "other"},
        ),
    ],
)
async def test_every_deployment_of_a_route_or_a_class_is_collected(ours: dict[str, Any], collected: set[str]) -> None:
    assert set((await batching(ours)).collected) == collected


async def test_whoever_has_a_fan_out_over_batches_is_told_that_they_are_not_used() -> None:
    fan_out = {"aggregate": "vote", "samples": 3}
    ours = {
        "default": {"deployment": "plain", "fan_out": fan_out},
        "many": {"deployments": ["plain", "cheap"], "fan_out": fan_out},
        "classed": {"deployment": "other", "complexity": {"complex": ["route/best"]}},
        "best": {"deployment": "strong", "fan_out": fan_out},
    }
    made = await batching(ours)
    assert made.unused == [("best", "strong"), ("classed", "strong"), ("many", "cheap")]
    with capture_logs() as said:
        made.start()
        await made.stop()
    warned = [(one["route"], one["deployment"]) for one in said if one["log_level"] == "warning"]
    assert warned == made.unused
    assert (await batching(ours, lane="live")).unused == []


async def test_a_lane_that_goes_by_batch_for_a_class_alone_asks_for_every_events_item() -> None:
    ours = {"default": {"deployment": "plain", "complexity": {"complex": ["strong"]}}}
    assert (await batching(ours, lane="strong")).goes
    assert not (await batching(ours, lane="live")).goes
