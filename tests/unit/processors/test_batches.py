"""Calls that go by batch, from the event that hands them over to the completion that comes of the reply."""

from __future__ import annotations

from decimal import Decimal

import pytest

from processors.batchapi.collector import LEASE_S
from processors.budgets.rule import Budget
from processors.complete.policies import CascadePolicy
from processors.complete.routes import Group
from processors.complete.worst import worst_case
from processors.event import Recorded
from schemas.errors import (
    NotYetError,
    RefusedError,
)
from schemas.records import Answer, Cost
from tests.support.batching import WHOLE, BatchBench, Stop, answered, bulk_event, hand_over, key_of
from tests.support.cascading import deployment
from tests.support.completing import as_bytes
from tests.support.enrichments import ACCEPTED


async def test_a_call_goes_by_batch_at_half_price() -> None:
    bench = BatchBench()
    await hand_over(bench, "r1", "r2")
    await bench.rounds()
    first = await answered(bench, "r1")
    cost, _ = await bench.worker()(bulk_event("r2"))
    assert first.text is not None
    assert first.text.inline == "An answer."
    assert first.cost_usd == WHOLE / 2
    assert isinstance(cost, Cost)
    assert cost.amount_usd == WHOLE / 2
    assert cost.price_source.endswith("x 0.5 (batch)")
    assert len(bench.provider.made) == 1
    assert bench.model.calls == []
    assert bench.store.woken == {bulk_event("r1").meta.event_id, bulk_event("r2").meta.event_id}


async def test_the_attempt_is_committed_before_the_batch_is_made() -> None:
    bench = BatchBench()
    await hand_over(bench, "r1")
    bench.failpoints.name = "before_batch_create"
    with pytest.raises(Stop):
        await bench.collector().round()
    (attempt,) = bench.journal.attempts[key_of("r1").call_id]
    assert attempt.state == "calling"
    assert attempt.target.price_source.endswith("x 0.5 (batch)")
    assert bench.provider.made == []


@pytest.mark.parametrize(
    "point",
    [
        "after_batch_begun",
        "after_batch_claims",
        "after_batch_upload",
        "after_batch_create",
        "after_batch_replies",
        "after_batch_results",
    ],
)
async def test_a_collector_that_dies_anywhere_pays_once(point: str) -> None:
    bench = BatchBench()
    await hand_over(bench, "r1", "r2", "r3")
    bench.failpoints.name = point
    with pytest.raises(Stop):
        await bench.rounds()
    bench.clock.advance(60)
    await bench.rounds(owner="w2")
    for request_id in ("r1", "r2", "r3"):
        completion = await answered(bench, request_id, owner="w2")
        assert completion.cost_usd == WHOLE / 2
        assert len(completion.attempts) == 1
    assert sorted(bench.provider.paid) == sorted(key_of(one).call_id for one in ("r1", "r2", "r3"))
    assert bench.model.calls == []


async def test_a_worker_that_dies_with_a_stored_reply_buys_nothing_again() -> None:
    bench = BatchBench()
    await hand_over(bench, "r1")
    await bench.rounds()
    bench.failpoints.name = "after_batch_adoption"
    with pytest.raises(Stop):
        await bench.worker()(bulk_event("r1"))
    with pytest.raises(NotYetError):
        await bench.worker("w2")(bulk_event("r1"))
    bench.clock.advance(20)
    completion = await answered(bench, "r1", owner="w2")
    assert len(completion.attempts) == 1
    assert completion.cost_usd == WHOLE / 2
    assert bench.model.calls == []


async def test_a_redelivery_after_the_reply_was_booked_gives_the_same_bytes() -> None:
    bench = BatchBench()
    await hand_over(bench, "r1")
    await bench.rounds()
    first = await bench.worker()(bulk_event("r1"))
    again = await bench.worker("w2")(bulk_event("r1"))
    assert isinstance(first[-1], Recorded)
    assert first[-1] == again[-1]
    assert bench.item().state == "done"
    assert bench.item().reply is None


@pytest.mark.parametrize(
    ("status", "code", "ours"), [(400, "context_length_exceeded", "context_too_long"), (404, "x", "http_404")]
)
async def test_an_error_line_has_the_class_of_a_live_error(status: int, code: str, ours: str) -> None:
    bench = BatchBench()
    body = {"error": {"code": code, "message": "CANARY"}}
    bench.provider.answer = lambda request: {
        "custom_id": request["custom_id"],
        "response": {"status_code": status, "body": body},
        "error": None,
    }
    await hand_over(bench, "r1")
    await bench.rounds()
    *_, answer = await bench.worker()(bulk_event("r1"))
    assert isinstance(answer, Answer)
    assert answer.failure is not None
    assert answer.failure.code == ours
    assert "CANARY" not in answer.failure.message
    assert bench.model.calls == []


async def test_a_request_that_is_cancelled_before_it_is_sent_costs_nothing() -> None:
    bench = BatchBench()
    await hand_over(bench, "r1")
    bench.control.cancel("acme", "r1")
    with pytest.raises(RefusedError) as caught:
        await bench.worker()(bulk_event("r1"))
    assert caught.value.code == "cancelled"
    await bench.rounds()
    assert bench.provider.made == []


async def test_a_request_that_is_cancelled_in_its_batch_ends_at_once_and_its_reply_is_booked_late() -> None:
    bench = BatchBench()
    bench.provider.turns = 99
    await hand_over(bench, "r1")
    await bench.rounds(2)
    bench.control.cancel("acme", "r1")
    cost, answer = await bench.worker()(bulk_event("r1"))
    assert isinstance(cost, Cost)
    assert cost.state == "unknown"
    assert cost.upper_bound
    assert isinstance(answer, Answer)
    assert answer.failure is not None
    assert answer.failure.code == "cancelled"
    bench.provider.turns = 0
    await bench.rounds(2)
    (attempt,) = bench.journal.attempts[key_of("r1").call_id]
    assert attempt.late_at is not None
    assert attempt.cost_usd == WHOLE / 2
    assert bench.item().state == "done"


async def test_a_redelivery_after_the_late_reply_tells_the_first_cost_with_the_same_bytes() -> None:
    bench = BatchBench()
    bench.provider.turns = 99
    await hand_over(bench, "r1")
    await bench.rounds(2)
    bench.control.cancel("acme", "r1")
    first, answer = await bench.worker()(bulk_event("r1"))
    bench.provider.turns = 0
    await bench.rounds(2)
    again, correction, same = await bench.worker("w2")(bulk_event("r1"))
    assert as_bytes([first, answer]) == as_bytes([again, same])
    assert isinstance(first, Cost)
    assert isinstance(correction, Cost)
    assert first.error_code == "cancelled"
    assert first.amount_usd + correction.amount_usd == WHOLE / 2


async def test_a_reply_that_nobody_wants_any_more_is_booked_as_it_is() -> None:
    bench = BatchBench()
    await hand_over(bench, "r1")
    await bench.rounds()
    bench.control.cancel("acme", "r1")
    cost, answer = await bench.worker()(bulk_event("r1"))
    assert isinstance(cost, Cost)
    assert cost.amount_usd == WHOLE / 2
    assert isinstance(answer, Answer)
    assert answer.status == "failed"
    assert bench.model.calls == []


async def test_a_request_that_can_not_wait_for_a_batch_is_called_at_once() -> None:
    bench = BatchBench()
    outputs = await bench.worker()(bulk_event("r1", ttl_h=1.0))
    assert isinstance(outputs[-1], Recorded)
    assert len(bench.model.calls) == 1
    assert bench.store.rows == {}


async def test_another_lane_is_called_at_once() -> None:
    bench = BatchBench({"lanes": frozenset({"nightly"})})
    await bench.worker()(bulk_event("r1"))
    assert len(bench.model.calls) == 1


async def test_two_collectors_make_one_batch() -> None:
    bench = BatchBench()
    await hand_over(bench, "r1")
    await bench.collector("w1").round()
    await bench.collector("w2").round()
    assert bench.provider.calls.count("create") == 1
    assert bench.provider.calls.count("look") == 0


async def test_a_batch_waits_until_it_is_full_or_old() -> None:
    bench = BatchBench({"max_wait_s": 100.0, "max_requests": 2})
    await hand_over(bench, "r1")
    await bench.rounds(1)
    assert bench.provider.made == []
    await hand_over(bench, "r2", "r3")
    await bench.rounds(1)
    assert len(bench.provider.paid) == 2
    await bench.rounds(2)
    assert len(bench.provider.paid) == 3


async def test_a_paused_route_puts_nothing_into_a_batch() -> None:
    bench = BatchBench()
    await hand_over(bench, "r1")
    bench.control.pause("route", "default")
    await bench.rounds(1)
    assert bench.provider.made == []
    bench.control.resume("route", "default")
    await bench.rounds(1)
    assert len(bench.provider.made) == 1


async def test_a_budget_holds_the_worst_case_until_the_call_is_settled() -> None:
    rule = Budget(name="all", period="day", only={}, hard_usd=Decimal(1))
    bench = BatchBench(budgets=(rule,))
    await hand_over(bench, "r1")
    assert bench.budgets.reservations == {}
    await bench.rounds()
    ((_, is_open, reserved),) = bench.budgets.reservations.values()
    assert is_open
    assert reserved > WHOLE
    assert bench.budgets.holds == {key_of("r1").call_id: LEASE_S}
    await answered(bench)
    ((_, is_open, spent),) = bench.budgets.reservations.values()
    assert (is_open, spent) == (False, WHOLE / 2)


@pytest.mark.parametrize(("share", "outcome"), [("1", "escalated"), ("0.99", "stood")])
async def test_a_reply_by_batch_is_followed_by_a_stronger_model_only_where_that_is_paid_for(
    share: str, outcome: str
) -> None:
    cascade = CascadePolicy(groups=(Group(deployments=(deployment("strong", "20000"),)),), least_words=1_000)
    plain = BatchBench(cascade=cascade)
    worst = worst_case(bulk_event("r1").record, plain.route, at=ACCEPTED)
    rule = Budget(name="all", period="day", only={}, hard_usd=worst * Decimal(share))
    bench = BatchBench(budgets=(rule,), cascade=cascade)
    await hand_over(bench, "r1")
    await bench.rounds()
    one = await answered(bench)
    assert one.cascade is not None and one.cascade.outcome == outcome
    assert [call.deployment for call in bench.model.calls] == (["strong"] if outcome == "escalated" else [])


async def test_a_request_that_its_budget_refuses_is_in_no_batch() -> None:
    rule = Budget(name="all", period="day", only={}, hard_usd=Decimal("0.000001"))
    bench = BatchBench(budgets=(rule,))
    await hand_over(bench, "r1")
    await bench.rounds()
    with pytest.raises(RefusedError) as caught:
        await bench.worker()(bulk_event("r1"))
    assert caught.value.code == "budget_exceeded"
    assert bench.provider.made == []


async def test_a_large_batch_is_claimed_sent_and_read_in_parts() -> None:
    bench = BatchBench()
    ids = [f"r{number}" for number in range(230)]
    await hand_over(bench, *ids)
    bench.failpoints.name = "after_batch_replies"
    with pytest.raises(Stop):
        await bench.rounds()
    bench.clock.advance(60)
    await bench.rounds(owner="w2")
    assert {item.state for item in bench.store.rows.values()} == {"answered"}
    assert sorted(bench.provider.paid) == sorted(key_of(one).call_id for one in ids)
    assert (await answered(bench, "r229", owner="w2")).cost_usd == WHOLE / 2
