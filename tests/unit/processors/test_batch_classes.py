"""Batches where a route has classes: those of the deployment that the request's class comes to."""

from __future__ import annotations

from dataclasses import replace

from processors.complete.policies import CLASSES, ComplexityPolicy
from tests.support.batching import WHOLE, BatchBench, answered, bulk_event, hand_over


async def test_a_class_of_its_own_deployment_goes_by_that_ones_batches() -> None:
    bench = BatchBench()
    plain = replace(bench.deployment, name="plain", model="m0", batch=None)
    way = bench.route
    bench.route = replace(
        way,
        deployment=plain,
        complexity=ComplexityPolicy(routes=dict.fromkeys(CLASSES, way), targets=dict.fromkeys(CLASSES, "d1")),
    )
    await hand_over(bench, "r1")
    await bench.rounds()
    completion = await answered(bench)
    assert (completion.deployment, completion.model, completion.cost_usd) == ("d1", "m1", WHOLE / 2)
    assert completion.complexity is not None
    assert bench.model.calls == []


async def test_a_class_without_batches_is_called_at_once_on_a_route_that_has_some() -> None:
    bench = BatchBench()
    plain = replace(bench.deployment, name="plain", model="m0", batch=None)
    way = replace(bench.route, deployment=plain)
    bench.route = replace(
        bench.route,
        complexity=ComplexityPolicy(routes=dict.fromkeys(CLASSES, way), targets=dict.fromkeys(CLASSES, "plain")),
    )
    await bench.worker()(bulk_event("r1"))
    assert [call.deployment for call in bench.model.calls] == ["plain"]
    assert bench.store.rows == {}
