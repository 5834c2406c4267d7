"""Cancelling a request that the complete stage has, on the shipped fakes."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from processors.complete.deltas import CLOSING
from processors.event import Recorded
from schemas.errors import RefusedError, TransientProviderError
from schemas.records import Answer, Cost, Delta
from tests.support.completing import KEY, Bench, as_bytes, event, streaming
from tests.support.polling import turns, until


def cancel(bench: Bench, request_id: str = "r1") -> None:
    bench.control.cancel("acme", request_id)


def is_cancelled(answer: Any) -> bool:
    return isinstance(answer, Answer) and (answer.status, answer.failure and answer.failure.code) == (
        "failed",
        "cancelled",
    )


async def test_a_request_that_was_cancelled_before_its_claim_spends_nothing() -> None:
    bench = Bench()
    cancel(bench)
    with pytest.raises(RefusedError) as caught:
        await bench.worker()(event())
    assert (caught.value.code, caught.value.status) == ("cancelled", "failed")
    assert bench.model.calls == [] and bench.journal.calls == {}


async def test_another_tenants_request_of_the_same_id_goes_on() -> None:
    bench = Bench()
    bench.control.cancel("other", "r1")
    assert [type(item) for item in await bench.worker()(event())] == [Cost, Recorded]


async def test_an_open_call_is_closed_at_once_and_booked_at_its_bound() -> None:
    bench = Bench()
    bench.model.hold = asyncio.Event()
    task = asyncio.create_task(bench.worker()(event()))
    await until(lambda: bench.model.running == 1, "the call is open")
    cancel(bench)
    cost, answer = await asyncio.wait_for(task, 20)
    assert bench.model.cancelled == 1 and bench.model.running == 0
    assert (cost.state, cost.upper_bound) == ("unknown", True) and cost.amount_usd > 0
    assert is_cancelled(answer) and answer.cost_usd == cost.amount_usd
    assert answer.attempts[0].error_code == "cancelled"
    bench.clock.advance(3600)
    assert as_bytes(await bench.worker("w2")(event())) == as_bytes([cost, answer])
    assert len(bench.model.calls) == 1


async def test_a_stream_that_is_cancelled_is_closed() -> None:
    bench = Bench()
    bench.model.hold = asyncio.Event()
    bench.model.pieces = [["What is "]]
    task = asyncio.create_task(bench.worker()(streaming()))
    await until(lambda: bool(bench.sink.sent), "a delta is sent")
    cancel(bench)
    _, closing, answer = await asyncio.wait_for(task, 20)
    assert isinstance(closing, Delta) and is_cancelled(answer)
    assert [(v.guard, v.category) for v in answer.verdicts] == [("stream", "public")]
    assert (closing.aborted, closing.final, closing.sequence) == (True, True, CLOSING)
    assert (closing.text, closing.finish_reason) == (None, "cancelled")


async def test_who_waits_for_a_slot_waits_no_more() -> None:
    bench = Bench()
    hold = bench.model.hold = asyncio.Event()
    worker = bench.worker()
    others = [asyncio.create_task(worker(event(f"o{n}"))) for n in range(4)]
    await until(lambda: bench.model.running == 4, "every slot is taken")
    waiting = asyncio.create_task(worker(event()))
    await turns()
    assert not waiting.done()
    cancel(bench)
    with pytest.raises(RefusedError, match="cancelled"):
        await asyncio.wait_for(waiting, 20)
    assert KEY.call_id not in bench.journal.calls
    hold.set()
    await asyncio.gather(*others)
    # The slot that was not taken is free for others.
    await asyncio.gather(*(worker(event(f"p{n}")) for n in range(4)))


async def test_between_two_attempts_the_call_ends_without_another_one() -> None:
    bench = Bench()
    bench.fail_with(TransientProviderError("http_429", "429", http_status=429, retry_after_s=15))
    task = asyncio.create_task(bench.worker()(event(expires_at=None)))
    rows = bench.journal.attempts
    await until(lambda: bool(rows) and rows[KEY.call_id][0].state == "failed", "the first attempt is booked")
    cancel(bench)
    cost, answer = await asyncio.wait_for(task, 20)
    assert cost.amount_usd == 0 and is_cancelled(answer) and len(bench.model.calls) == 1


async def test_who_waits_for_another_worker_gets_what_that_one_ended_with() -> None:
    bench = Bench()
    bench.model.hold = asyncio.Event()
    first = asyncio.create_task(bench.worker("w1")(event()))
    await until(lambda: bench.model.running == 1, "the call is open")
    second = asyncio.create_task(bench.worker("w2")(event()))
    await turns()
    cancel(bench)
    outputs = await asyncio.gather(first, second)
    assert as_bytes(outputs[0]) == as_bytes(outputs[1]) and is_cancelled(outputs[0][-1])
    assert len(bench.model.calls) == 1


async def test_a_call_whose_worker_is_gone_is_not_made_again() -> None:
    bench = Bench()
    bench.model.hold = asyncio.Event()
    lost = asyncio.create_task(bench.worker("w1")(event()))
    await until(lambda: bench.model.running == 1, "the call is open")
    lost.cancel()
    await asyncio.wait((lost,))
    bench.clock.advance(16)
    cancel(bench)
    cost, answer = await bench.worker("w2")(event())
    assert (cost.state, cost.upper_bound) == ("unknown", True) and is_cancelled(answer)
    assert len(bench.model.calls) == 1


async def test_a_claim_that_was_committed_as_the_cancel_came_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    claim = bench.journal.claim

    async def claim_and_cancel(*given: Any, **named: Any) -> Any:
        claimed = await claim(*given, **named)
        cancel(bench)
        return claimed

    monkeypatch.setattr(bench.journal, "claim", claim_and_cancel)
    cost, answer = await bench.worker()(event())
    assert (cost.state, cost.amount_usd, bench.model.calls) == ("failed", Decimal(0), []) and is_cancelled(answer)


async def test_an_answer_that_is_paid_goes_on() -> None:
    bench = Bench()
    first = await bench.worker()(streaming())
    cancel(bench)
    assert as_bytes(await bench.worker("w2")(streaming())) == as_bytes(first)


async def test_a_cancel_of_an_expired_request_says_cancelled() -> None:
    bench = Bench()
    bench.clock.advance(3600)
    cancel(bench)
    with pytest.raises(RefusedError, match="cancelled"):
        await bench.worker()(event())


async def test_the_stages_own_end_is_not_taken_for_a_cancel() -> None:
    bench = Bench()
    bench.model.hold = asyncio.Event()
    task = asyncio.create_task(bench.worker()(event()))
    await until(lambda: bench.model.running == 1, "the call is open")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.journal.attempts[KEY.call_id][0].state == "calling"
