"""The hours that a batch took are no measure of how long calls take."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from processors.complete.observer import NullObserver
from processors.complete.routes import HedgePolicy
from schemas.records import Completion
from tests.support.batching import BatchBench, answered, bulk_event, hand_over, key_of
from tests.support.enrichments import ACCEPTED
from tests.support.polling import until

# By what was measured, as soon as there is anything; before that at once.
BY_ONE = HedgePolicy(minimum_samples=1, floor_s=0.001, before_s=0.001, share=1.0)


class Timed(NullObserver):
    """What calls ended with, and after how long."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float | None]] = []

    def on_call(self, deployment: str, outcome: str, seconds: float | None) -> None:
        self.calls.append((outcome, seconds))


async def after_ten_hours(bench: BatchBench) -> None:
    """A reply for r1, ten hours after its batch was made."""
    await hand_over(bench, "r1")
    await bench.rounds()
    key = key_of("r1").call_id
    bench.store.rows[key] = replace(bench.item(), replied_at=ACCEPTED + timedelta(hours=10))


@pytest.fixture
async def bench() -> BatchBench:
    bench = BatchBench(hedge=BY_ONE, max_attempts=3, stream=False)
    await after_ten_hours(bench)
    return bench


async def test_a_batchs_hours_are_not_what_the_next_call_waits_for_before_a_hedge(bench: BatchBench) -> None:
    worker = bench.worker()
    await worker(bulk_event("r1"))
    bench.model.hold = asyncio.Event()
    running = asyncio.create_task(worker(bulk_event("r2", ttl_h=1.0)))
    await until(lambda: len(bench.model.calls) == 2, "a second call beside the first", timeout_s=10.0)
    bench.model.hold.set()
    *_, last = await running
    assert isinstance(last.record, Completion)
    assert last.record.hedge is not None
    assert last.record.hedge.samples == 0


async def test_a_batchs_hours_are_told_of_the_attempt_and_in_no_metric(bench: BatchBench) -> None:
    bench.observer = timed = Timed()
    completion = await answered(bench)
    assert completion.attempts[0].duration_ms == pytest.approx(10 * 3600 * 1000, rel=0.1)
    assert timed.calls == [("done", None)]
    await bench.worker()(bulk_event("r2", ttl_h=1.0))
    (_, (outcome, seconds)) = timed.calls
    assert outcome == "done"
    assert seconds is not None and seconds < 60
