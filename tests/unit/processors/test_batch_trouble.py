"""Batches that go wrong: refused, lost, expired, answered in part; and what their requests come to."""

from __future__ import annotations

from typing import Any

import pytest

from processors.batchapi.provider import reply_line
from schemas.errors import IndeterminateError, OutcomeUnknownError, PermanentProviderError, TransientProviderError
from schemas.records import Answer
from tests.support.batching import WHOLE, BatchBench, Stop, answered, bulk_event, hand_over, key_of


async def test_a_batch_that_its_provider_does_not_know_is_booked_unknown_and_asked_again() -> None:
    bench = BatchBench()
    await hand_over(bench, "r1")
    bench.failpoints.name = "before_batch_create"
    with pytest.raises(Stop):
        await bench.collector().round()
    bench.clock.advance(40)
    await bench.rounds(2, owner="w2")
    assert bench.item().state == "sent"
    await bench.rounds(3, owner="w2")
    assert bench.heard.events == ["lost"]
    completion = await answered(bench, owner="w2")
    assert [one.state for one in completion.attempts] == ["unknown", "done"]
    assert completion.attempts[0].upper_bound
    assert len(bench.model.calls) == 1


async def test_a_lost_batch_of_a_route_that_never_repeats_ends_as_indeterminate() -> None:
    bench = BatchBench(unknown_policy="fail")
    await hand_over(bench, "r1")
    bench.failpoints.name = "before_batch_create"
    with pytest.raises(Stop):
        await bench.collector().round()
    bench.clock.advance(40)
    await bench.rounds(5, owner="w2")
    with pytest.raises(IndeterminateError):
        await bench.worker("w2")(bulk_event("r1"))
    assert bench.model.calls == []


def expired_second(request: dict[str, Any]) -> dict[str, Any]:
    """A reply, but for the request r2, which was not worked on."""
    if request["custom_id"] != key_of("r2").call_id:
        return reply_line(request)
    error = {"code": "batch_expired", "message": "CANARY"}
    return {"custom_id": request["custom_id"], "response": None, "error": error}


async def test_what_an_expired_batch_left_is_called_at_once() -> None:
    bench = BatchBench()
    bench.provider.end, bench.provider.answer = "expired", expired_second
    await hand_over(bench, "r1", "r2")
    await bench.rounds()
    assert (await answered(bench, "r1")).cost_usd == WHOLE / 2
    completion = await answered(bench, "r2")
    assert [one.error_code for one in completion.attempts] == ["batch_expired", None]
    assert completion.attempts[0].cost_usd == 0
    assert len(bench.model.calls) == 1


async def test_what_an_expired_batch_left_goes_into_another_one_where_that_is_wanted() -> None:
    bench = BatchBench({"again": "batch"})
    bench.provider.end = "expired"
    bench.provider.answer = lambda request: (
        reply_line(request) if request["custom_id"] == key_of("r1").call_id else None
    )
    await hand_over(bench, "r1", "r2")
    await bench.rounds(2)
    bench.provider.end, bench.provider.answer = "completed", reply_line
    await bench.rounds(4)
    completion = await answered(bench, "r2")
    assert [one.error_code for one in completion.attempts] == ["batch_expired", None]
    assert completion.cost_usd == WHOLE / 2
    assert len(bench.provider.made) == 2
    assert bench.model.calls == []


async def test_a_request_that_no_batch_answers_fails_when_its_attempts_are_used_up() -> None:
    bench = BatchBench({"again": "batch"}, max_attempts=2)
    bench.provider.end = "failed"
    await hand_over(bench, "r1")
    await bench.rounds(8)
    *_, answer = await bench.worker()(bulk_event("r1"))
    assert isinstance(answer, Answer)
    assert answer.failure is not None
    assert answer.failure.code == "batch_failed"
    assert len(bench.provider.made) == 2


async def test_an_exchange_that_fails_is_made_again() -> None:
    bench = BatchBench()
    for name, error in (
        ("upload", TransientProviderError("http_503", "away", http_status=503)),
        ("create", TransientProviderError("http_429", "too many", http_status=429)),
        ("look", OutcomeUnknownError("connection_lost", "broken")),
        ("download", OutcomeUnknownError("timeout_total", "slow")),
    ):
        bench.provider.fail[name] = error
    await hand_over(bench, "r1")
    collector = bench.collector()
    for _ in range(8):
        await collector.round()
        bench.clock.advance(60)
    assert bench.heard.troubles == ["http_503", "http_429", "connection_lost", "timeout_total"]
    assert (await answered(bench)).cost_usd == WHOLE / 2
    assert bench.provider.calls.count("create") == 2
    assert len(bench.provider.made) == 1


async def test_a_batch_whose_making_was_not_answered_is_found_and_made_once() -> None:
    bench = BatchBench()
    bench.provider.fail_after["create"] = OutcomeUnknownError("connection_lost", "broken")
    await hand_over(bench, "r1")
    collector = bench.collector()
    for _ in range(4):
        await collector.round()
        bench.clock.advance(60)
    assert (await answered(bench)).cost_usd == WHOLE / 2
    assert len(bench.provider.made) == 1


async def test_a_refused_batch_tells_every_request_and_leaves_no_file() -> None:
    bench = BatchBench()
    bench.provider.fail["create"] = PermanentProviderError("http_400", "no", http_status=400)
    await hand_over(bench, "r1")
    await bench.rounds()
    *_, answer = await bench.worker()(bulk_event("r1"))
    assert isinstance(answer, Answer)
    assert answer.failure is not None
    assert answer.failure.code == "http_400"
    assert bench.provider.files == {}


async def test_a_batch_without_an_end_is_given_up_after_its_window() -> None:
    bench = BatchBench()
    bench.provider.turns = 10**6
    await hand_over(bench, "r1")
    await bench.rounds(2)
    bench.clock.advance(25 * 3600)
    await bench.rounds(1)
    assert "cancel" in bench.provider.calls
    bench.clock.advance(3600)
    await bench.rounds(1)
    completion = await answered(bench)
    assert [one.error_code for one in completion.attempts] == ["batch_lost", None]
    assert completion.attempts[0].upper_bound


async def test_a_reply_that_is_no_completion_has_the_class_of_a_live_one() -> None:
    bench = BatchBench(max_attempts=1)
    bench.provider.answer = lambda request: {
        "custom_id": request["custom_id"],
        "response": {"status_code": 200, "body": {"object": "chat.completion"}},
        "error": None,
    }
    await hand_over(bench, "r1")
    await bench.rounds()
    *_, answer = await bench.worker()(bulk_event("r1"))
    assert isinstance(answer, Answer)
    assert answer.failure is not None
    assert answer.failure.code == "malformed_response"
