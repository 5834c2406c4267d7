"""A deployment whose provider has no Batch API: its requests are called one by one, and lose no attempt by it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from schemas.errors import (
    OutcomeUnknownError,
    PermanentProviderError,
    ProviderError,
    TransientProviderError,
)
from schemas.records import Cost
from tests.support.batching import WHOLE, BatchBench, Stop, answered, bulk_event, hand_over, key_of


def none_here(status: int) -> ProviderError:
    if status >= 500:
        return TransientProviderError(f"http_{status}", "none here", http_status=status)
    return PermanentProviderError(f"http_{status}", "none here", http_status=status)


@pytest.mark.parametrize("exchange", ["upload", "create"])
@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize("again", ["call", "batch"])
async def test_requests_are_called_when_there_is_no_batch_api(exchange: str, status: int, again: str) -> None:
    bench = BatchBench({"again": again}, max_attempts=1)
    bench.provider.fail[exchange] = none_here(status)
    await hand_over(bench, "r1", "r2")
    await bench.rounds()
    assert bench.heard.events == ["not-offered"]
    assert bench.provider.files == {}
    assert len(bench.store.woken) == 2
    for request_id in ("r1", "r2"):
        completion = await answered(bench, request_id)
        assert [(one.state, one.error_code, one.cost_usd > 0) for one in completion.attempts] == [
            ("failed", "batch_not_offered", False),
            ("done", None, True),
        ]
        assert not completion.attempts[0].upper_bound
    assert len(bench.model.calls) == 2
    assert bench.provider.made == []


@pytest.mark.parametrize("offered", [False, True])
async def test_a_worker_that_dies_while_it_hands_them_back_loses_none(
    monkeypatch: pytest.MonkeyPatch, offered: bool
) -> None:
    bench = BatchBench(max_attempts=1)
    bench.provider.fail["create"] = none_here(404)
    await hand_over(bench, "r1", "r2")
    booked = []
    fail_attempt = bench.lasting.fail_attempt

    async def gone(*given: Any, **named: Any) -> Any:
        if booked:
            raise Stop
        booked.append(await fail_attempt(*given, **named))
        return booked[-1]

    with monkeypatch.context() as patched:
        patched.setattr(bench.lasting, "fail_attempt", gone)
        with pytest.raises(Stop):
            await bench.collector().round()
    if not offered:
        bench.provider.fail["upload"] = none_here(404)
    bench.clock.advance(40)
    await bench.rounds(3, owner="w2")
    assert bench.heard.events == (["made", "ended"] if offered else ["not-offered"])
    for request_id in ("r1", "r2"):
        completion = await answered(bench, request_id, owner="w2")
        assert completion.attempts[-1].state == "done"
    # What was booked goes into no batch; the other one does where there are batches by now.
    assert (len(bench.model.calls), len(bench.provider.paid)) == ((1, 1) if offered else (2, 0))


async def test_what_is_withdrawn_before_it_was_sent_costs_nothing() -> None:
    bench = BatchBench()
    bench.failpoints.name = "after_batch_upload"
    await hand_over(bench, "r1")
    with pytest.raises(Stop):
        await bench.collector().round()
    bench.control.cancel("acme", "r1")
    cost, _ = await bench.worker()(bulk_event("r1"))
    assert isinstance(cost, Cost)
    assert cost.upper_bound
    bench.clock.advance(40)
    await bench.rounds(2, owner="w2")
    (row,) = bench.journal.attempts[key_of("r1").call_id]
    assert bench.provider.made == []
    assert bench.item().state == "done"
    assert (row.state, row.cost_usd, row.late_at is not None) == ("failed", Decimal(0), True)


async def test_what_is_withdrawn_while_others_are_handed_back_costs_nothing() -> None:
    bench = BatchBench()
    bench.failpoints.name = "after_batch_upload"
    await hand_over(bench, "r1", "r2")
    with pytest.raises(Stop):
        await bench.collector().round()
    bench.control.cancel("acme", "r1")
    await bench.worker()(bulk_event("r1"))
    bench.provider.fail["upload"] = none_here(404)
    bench.clock.advance(40)
    await bench.rounds(2, owner="w2")
    (row,) = bench.journal.attempts[key_of("r1").call_id]
    assert (row.state, row.cost_usd, row.error_code) == ("failed", Decimal(0), "http_404")
    assert (await answered(bench, "r2", owner="w2")).attempts[-1].state == "done"


async def test_a_batch_that_was_perhaps_made_is_lost_when_nobody_can_look_for_it() -> None:
    bench = BatchBench()
    bench.provider.fail_after["create"] = OutcomeUnknownError("connection_lost", "broken")
    await hand_over(bench, "r1")
    for _ in range(5):
        bench.provider.fail["find"] = none_here(404)
        await bench.rounds(1)
    assert bench.heard.events == ["lost"]
    completion = await answered(bench)
    assert [one.state for one in completion.attempts] == ["unknown", "done"]
    assert completion.cost_usd > WHOLE
