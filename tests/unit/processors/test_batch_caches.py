"""Caches before batches: what is known is served at once, and of identical requests one goes by batch."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from processors.cache import CachePolicy
from schemas.errors import NotYetError, RefusedError
from schemas.records import Completion, Text
from tests.support.batching import WHOLE, BatchBench, Stop, answered, bulk_event, hand_over, key_of
from tests.support.caching import ON
from tests.support.completing import as_bytes

ALIKE = "What, then, is a coroutine?"


def bench_of(policy: CachePolicy = ON, **route: Any) -> BatchBench:
    bench = BatchBench(**route)
    bench.cached = policy
    return bench


def woken(bench: BatchBench, request_id: str) -> bool:
    return bulk_event(request_id).meta.event_id in bench.store.woken


def served(one: Completion, original: Completion) -> None:
    """That it was served by the original's answer, at nothing, with what was avoided."""
    assert one.text == original.text and one.text is not None
    assert (one.served_by, one.source_event_id) == ("cache-exact", original.meta.event_id)
    assert not one.cost_usd and not one.attempts and one.avoided_cost_usd == original.cost_usd


async def test_an_exact_hit_is_served_before_the_request_goes_into_a_batch() -> None:
    bench = bench_of()
    await hand_over(bench, "r1")
    await bench.rounds()
    original = await answered(bench, "r1")
    outputs = await bench.worker()(bulk_event("r2"))
    served(await answered(bench, "r2"), original)
    assert original.cost_usd == WHOLE / 2 and list(bench.store.rows) == [key_of("r1").call_id]
    assert bench.provider.paid == [key_of("r1").call_id] and not bench.model.calls
    assert as_bytes(await bench.worker("w2")(bulk_event("r2"))) == as_bytes(outputs)
    assert bench.seen.counts == {("exact", "miss"): 1, ("exact", "hit"): 1}


async def test_an_alike_question_is_served_before_it_goes_into_a_batch() -> None:
    bench = bench_of(replace(ON, semantic=True, similarity=0.8))
    await hand_over(bench, "r1")
    await bench.rounds()
    await answered(bench, "r1")
    near = bulk_event("r2")
    message = near.record.grounding.messages[0]
    asked = replace(message, content=(replace(message.content[0], text=Text(inline=ALIKE)),))
    record = replace(near.record, grounding=replace(near.record.grounding, messages=(asked,)))
    *_, one = await bench.worker()(replace(near, record=record))
    assert one.record.served_by == "cache-semantic"  # type: ignore[union-attr]
    assert list(bench.store.rows) == [key_of("r1").call_id]


async def test_of_identical_requests_one_goes_by_batch_and_the_others_come_back_with_its_answer() -> None:
    bench = bench_of()
    await hand_over(bench, "r1", "r2", "r3")
    # Delivered again meanwhile, in whatever state the first one is.
    await hand_over(bench, "r2")
    await bench.collector().round()
    await hand_over(bench, "r3")
    await bench.rounds()
    assert woken(bench, "r1") and not woken(bench, "r2")
    original = await answered(bench, "r1")
    assert woken(bench, "r2") and woken(bench, "r3")
    for request_id in ("r2", "r3"):
        served(await answered(bench, request_id), original)
    assert bench.provider.paid == [key_of("r1").call_id] and not bench.model.calls
    assert not bench.store.followers
    assert bench.seen.counts["flight", "wait"] == bench.seen.counts["flight", "hit"] == 2


async def test_a_crash_of_the_first_or_of_a_follower_pays_once() -> None:
    bench = bench_of()
    bench.failpoints.name = "after_batch_item"
    with pytest.raises(Stop):
        await bench.worker()(bulk_event("r1"))
    bench.failpoints.name = "after_batch_follow"
    with pytest.raises(Stop):
        await bench.worker()(bulk_event("r2"))
    bench.clock.advance(60)
    await hand_over(bench, "r2", "r1")
    await bench.rounds()
    original = await answered(bench, "r1")
    served(await answered(bench, "r2"), original)
    assert bench.provider.paid == [key_of("r1").call_id]


async def test_a_follower_of_a_request_that_was_cancelled_goes_by_batch_itself() -> None:
    bench = bench_of()
    await hand_over(bench, "r1", "r2", "r3")
    bench.control.cancel("acme", "r1")
    with pytest.raises(RefusedError):
        await bench.worker()(bulk_event("r1"))
    assert woken(bench, "r2") and woken(bench, "r3")
    bench.clock.advance(60)
    await hand_over(bench, "r2", "r3")
    await bench.rounds()
    original = await answered(bench, "r2")
    served(await answered(bench, "r3"), original)
    assert bench.provider.paid == [key_of("r2").call_id]


async def test_followers_of_a_call_that_failed_each_go_by_batch_themselves() -> None:
    bench = bench_of(max_attempts=1)
    answer = bench.provider.answer
    bench.provider.answer = _refused
    await hand_over(bench, "r1", "r2", "r3")
    await bench.rounds()
    *_, failed = await bench.worker()(bulk_event("r1"))
    assert failed.status == "failed"  # type: ignore[union-attr]
    bench.provider.answer = answer
    await hand_over(bench, "r2", "r3")
    await bench.rounds()
    for request_id in ("r2", "r3"):
        assert (await answered(bench, request_id)).served_by == "model"
    assert sorted(bench.provider.paid[1:]) == sorted(key_of(one).call_id for one in ("r2", "r3"))
    assert bench.seen.counts["flight", "alone"] == 2


def _refused(request: dict[str, Any]) -> dict[str, Any]:
    response = {"status_code": 400, "request_id": "req", "body": {"error": {"message": "no", "code": "bad"}}}
    return {"id": "r", "custom_id": request["custom_id"], "response": response, "error": None}


async def test_a_request_without_the_time_for_a_batch_does_not_wait_for_one() -> None:
    bench = bench_of()
    await hand_over(bench, "r1")
    await bench.collector().round()
    *_, last = await bench.worker()(bulk_event("r2", ttl_h=1.0))
    assert last.record.served_by == "model" and len(bench.model.calls) == 1  # type: ignore[union-attr]


async def test_a_request_of_a_batch_waits_for_a_call_that_is_made_live_and_looks_again_soon() -> None:
    bench = bench_of()
    await hand_over(bench, "r1")
    key, (call_id, until) = next(iter(bench.entries.entries.items()))
    # As if a worker were about to make the same call live.
    bench.store.rows.pop(call_id)
    bench.entries.entries[key] = (key_of("r0").call_id, until)
    with pytest.raises(NotYetError) as caught:
        await bench.worker()(bulk_event("r2"))
    assert caught.value.wait_s <= 15 and not bench.store.rows
    bench.clock.advance(60)
    await hand_over(bench, "r2")
    assert list(bench.store.rows) == [key_of("r2").call_id]


@pytest.mark.parametrize("policy", [None, CachePolicy(exact=True)])
async def test_without_single_flight_each_goes_by_batch(policy: CachePolicy | None) -> None:
    bench = BatchBench()
    bench.cached = policy
    await hand_over(bench, "r1", "r2")
    assert len(bench.store.rows) == 2


async def test_a_request_that_wants_no_cache_goes_by_batch_itself() -> None:
    bench = bench_of()
    await hand_over(bench, "r1")
    with pytest.raises(NotYetError):
        await bench.worker()(bulk_event("r2", cache="off"))
    assert len(bench.store.rows) == 2


async def test_a_follower_that_expires_ends_expired() -> None:
    bench = bench_of()
    await hand_over(bench, "r1", "r2")
    bench.clock.advance(timedelta(hours=49).total_seconds())
    with pytest.raises(RefusedError) as caught:
        await bench.worker()(bulk_event("r2"))
    assert caught.value.status == "expired"
