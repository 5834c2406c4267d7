"""The journal's protocol on real Postgres: leases, fencing, bookings, limits."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from processors.journal import (
    Busy,
    CallFailure,
    CallKey,
    Claim,
    Done,
    Ended,
    Expired,
    Granted,
    LeaseKeeper,
    Offer,
    PostgresJournal,
    Settled,
)
from processors.journal.protocol import as_booked
from processors.postgres import Database
from schemas.errors import FencedError
from schemas.records import Usage
from tests.support.leases import LapsingJournal
from tests.support.polling import until
from tests.support.stack import TestStack
from tests.support.targets import bound, target

pytestmark = pytest.mark.stack

BOUND = bound("0.000001234567")
TARGET = target(BOUND)
DONE = Settled(
    state="done",
    cost_usd=Decimal("0.000000000001"),
    usage=Usage(prompt_tokens=9, completion_tokens=3, cached_prompt_tokens=1, reasoning_tokens=2),
    http_status=200,
    response_id="resp-1",
    duration_ms=12.5,
    first_token_ms=3.25,
)
FAILED = Settled(state="failed", cost_usd=Decimal(0), error_class="transient-provider", error_code="http_500")
GIVEN_UP = CallFailure(kind="failed", code="http_500", error_class="transient-provider", message="m", retryable=True)


@pytest.fixture
def journal(database: Database) -> LapsingJournal:
    return LapsingJournal(database)


def offer(lane: str, **changes: Any) -> Offer:
    key = CallKey(tenant="acme", lane=lane, run="", request_id="r1")
    settings: dict[str, Any] = {"input_hash": "h1", "input": b"\x00input", "target": TARGET, "max_attempts": 5}
    return Offer(key=key, **(settings | changes))


async def granted(journal: LapsingJournal, wanted: Offer, owner: str = "w1") -> Granted:
    """The grant, once the lease of whoever holds it is over."""
    claim = await settled(journal, wanted, owner)
    assert isinstance(claim, Granted)
    return claim


async def settled(journal: LapsingJournal, wanted: Offer, owner: str = "w1") -> Claim:
    claim = await journal.claim(wanted, owner=owner)
    if not isinstance(claim, Busy):
        return claim
    await journal.lapse(wanted.key)
    return await journal.claim(wanted, owner=owner)


async def test_a_grant_is_committed_before_it_is_returned(journal: LapsingJournal, stack: TestStack, lane: str) -> None:
    grant = await granted(journal, offer(lane))
    other = await Database.open(stack.postgres_dsn)
    rows = await PostgresJournal(other).attempts_of(grant.lease.key)
    await other.close()
    assert rows == (grant.attempt,) and rows[0].state == "calling" and rows[0].target == TARGET


async def test_what_another_call_paid_for_is_booked_as_a_result_of_its_own(journal: LapsingJournal, lane: str) -> None:
    served = await journal.serve(offer(lane), lambda lost: b"served" if not lost else b"")
    assert isinstance(served, Done) and (served.result, served.attempts) == (b"served", ())
    # What was decided stays, for who serves it again and for who would call.
    assert await journal.serve(offer(lane, input_hash="h2"), lambda _: b"other") == served
    assert await journal.claim(offer(lane), owner="w1") == served == await journal.outcome_of(offer(lane).key)


async def test_nothing_is_served_over_a_live_lease_nor_to_who_is_too_late(journal: LapsingJournal, lane: str) -> None:
    unwanted = offer(lane, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert await journal.serve(unwanted, lambda _: b"served") == Expired()
    grant = await granted(journal, offer(lane))
    assert isinstance(await journal.serve(offer(lane), lambda _: b"served"), Busy)
    rows = await journal.finish(grant.lease, grant.attempt.attempt_id, DONE, b"own")
    served = await journal.serve(offer(lane), lambda _: b"served")
    assert isinstance(served, Done) and (served.result, served.attempts) == (b"own", rows)


async def test_a_call_whose_worker_was_lost_is_served_and_its_late_result_is_fenced(
    journal: LapsingJournal, lane: str
) -> None:
    grant = await granted(journal, offer(lane))
    assert isinstance(await journal.serve(offer(lane), lambda rows: bytes([len(rows)])), Busy)
    await journal.lapse(offer(lane).key)
    served = await journal.serve(offer(lane), lambda rows: bytes([len(rows)]))
    assert isinstance(served, Done) and served.result == b"\x01"
    assert [(row.state, row.cost_usd) for row in served.attempts] == [("unknown", BOUND.usd)]
    with pytest.raises(FencedError):
        await journal.finish(grant.lease, grant.attempt.attempt_id, DONE, b"late")
    kept = await journal.outcome_of(offer(lane).key)
    assert isinstance(kept, Done) and kept.result == b"\x01" and kept.attempts[0].late_at is not None


async def test_a_result_comes_back_byte_for_byte_with_its_booking(journal: LapsingJournal, lane: str) -> None:
    grant = await granted(journal, offer(lane))
    result = bytes(range(256))
    rows = await journal.finish(grant.lease, grant.attempt.attempt_id, DONE, result)
    again = await journal.claim(offer(lane, expired=True), owner="w2")
    assert isinstance(again, Done) and again.ended_at is not None
    assert again == Done(result=result, attempts=rows, input=b"\x00input", input_hash="h1", ended_at=again.ended_at)
    assert (rows[0].usage, rows[0].cost_usd, rows[0].response_id) == (DONE.usage, DONE.cost_usd, "resp-1")
    assert rows[0].ended_at is not None and rows[0].ended_at >= rows[0].started_at


async def test_an_outcome_is_read_as_it_was_booked(journal: LapsingJournal, lane: str) -> None:
    key = offer(lane).key
    assert await journal.outcome_of(key) is None
    grant = await granted(journal, offer(lane))
    assert await journal.outcome_of(key) is None
    await journal.fail_attempt(grant.lease, grant.attempt.attempt_id, replace(DONE, state="failed", usage=None))
    second = await journal.next_attempt(grant.lease, grant.attempt.target)
    counted = replace(DONE, usage=Usage(prompt_tokens=7, details={"input_audio_tokens": 3}))
    await journal.finish(grant.lease, second.attempt_id, counted, b"result")
    outcome = await journal.outcome_of(key)
    assert isinstance(outcome, Done) and [row.state for row in outcome.attempts] == ["failed", "done"]
    assert outcome.attempts[1].usage == counted.usage
    assert outcome == await journal.claim(offer(lane), owner="w2")


async def test_finishing_twice_with_one_lease_is_harmless(journal: LapsingJournal, lane: str) -> None:
    grant = await granted(journal, offer(lane))
    first = await journal.finish(grant.lease, grant.attempt.attempt_id, DONE, b"result")
    assert await journal.finish(grant.lease, grant.attempt.attempt_id, DONE, b"result") == first


async def test_of_100_claims_by_two_owners_one_is_granted(journal: LapsingJournal, lane: str) -> None:
    claims = await asyncio.gather(*(journal.claim(offer(lane), owner=f"w{n % 2}") for n in range(100)))
    assert sum(isinstance(claim, Granted) for claim in claims) == 1
    assert sum(isinstance(claim, Busy) for claim in claims) == 99


async def test_claims_that_meet_in_the_database_all_get_an_answer(journal: LapsingJournal, lane: str) -> None:
    for number in range(40):
        asked = [replace(offer(lane), key=replace(offer(lane).key, request_id=f"r{number}"))] * 6
        claims = await asyncio.gather(*(journal.claim(one, owner=f"w{n}") for n, one in enumerate(asked)))
        assert sorted(type(claim).__name__ for claim in claims) == ["Busy"] * 5 + ["Granted"]


async def test_a_live_lease_keeps_its_own_worker_out_too(journal: LapsingJournal, lane: str) -> None:
    await granted(journal, offer(lane), "w1")
    claim = await journal.claim(offer(lane), owner="w1")
    assert isinstance(claim, Busy) and 0 < claim.remaining_s <= journal.lease_s


async def test_the_call_of_a_lost_worker_is_booked_unknown_and_repeated(journal: LapsingJournal, lane: str) -> None:
    first = await granted(journal, offer(lane), "w1")
    second = await granted(journal, offer(lane), "w2")
    assert (second.lease.epoch, second.attempt.ordinal) == (first.lease.epoch + 1, 1)
    (lost,) = second.earlier
    assert (lost.state, lost.error_code, lost.cost_usd, lost.upper_bound) == ("unknown", "worker_lost", BOUND.usd, True)


async def test_a_route_that_forbids_to_repeat_ends_the_call_of_a_lost_worker(
    journal: LapsingJournal, lane: str
) -> None:
    await granted(journal, offer(lane), "w1")
    claim = await settled(journal, offer(lane, unknown_policy="fail"), "w2")
    assert isinstance(claim, Ended) and claim.failure.kind == "indeterminate"
    assert claim.attempts[0].state == "unknown"
    assert await journal.claim(offer(lane), owner="w3") == claim


async def test_three_lost_workers_are_a_crash_loop(journal: LapsingJournal, lane: str) -> None:
    for owner in ("w1", "w2", "w3"):
        await granted(journal, offer(lane), owner)
    claim = await settled(journal, offer(lane), "w4")
    assert isinstance(claim, Ended) and claim.failure.kind == "crash_loop"
    assert [row.state for row in claim.attempts] == ["unknown"] * 3


async def test_attempts_are_limited_across_owners(journal: LapsingJournal, lane: str) -> None:
    wanted = offer(lane, max_attempts=2)
    grant = await granted(journal, wanted)
    await journal.fail_attempt(grant.lease, grant.attempt.attempt_id, FAILED)
    await journal.next_attempt(grant.lease, TARGET)
    claim = await settled(journal, wanted, "w2")
    assert isinstance(claim, Ended) and len(claim.attempts) == 2 and claim.failure.code == "worker_lost"


async def test_a_further_attempt_is_a_row_of_its_own_and_renews_the_lease(journal: LapsingJournal, lane: str) -> None:
    grant = await granted(journal, offer(lane))
    await journal.fail_attempt(grant.lease, grant.attempt.attempt_id, FAILED)
    await journal.lapse(grant.lease.key)
    attempt = await journal.next_attempt(grant.lease, TARGET)
    assert isinstance(await journal.claim(offer(lane), owner="w2"), Busy)
    assert (attempt.ordinal, attempt.state, attempt.epoch) == (1, "calling", grant.lease.epoch)
    assert attempt.attempt_id == grant.lease.key.attempt_id(1)


async def test_a_further_attempt_that_was_committed_unheard_is_not_opened_twice(
    journal: LapsingJournal, lane: str
) -> None:
    grant = await granted(journal, offer(lane))
    await journal.fail_attempt(grant.lease, grant.attempt.attempt_id, FAILED)
    assert await journal.next_attempt(grant.lease, TARGET) == await journal.next_attempt(grant.lease, TARGET)


async def test_a_paused_owner_is_fenced_and_its_late_result_booked(journal: LapsingJournal, lane: str) -> None:
    paused = await granted(journal, offer(lane), "w1")
    second = await granted(journal, offer(lane), "w2")
    before = second.earlier[0]
    with pytest.raises(FencedError):
        await journal.finish(paused.lease, paused.attempt.attempt_id, DONE, b"late")
    await journal.finish(second.lease, second.attempt.attempt_id, DONE, b"right")
    claim = await journal.claim(offer(lane), owner="w3")
    assert isinstance(claim, Done) and claim.result == b"right"
    late = claim.attempts[0]
    assert (late.state, late.duplicate, late.cost_usd) == ("done", True, DONE.cost_usd)
    assert as_booked(late) == before
    with pytest.raises(FencedError):
        await journal.finish(paused.lease, paused.attempt.attempt_id, DONE, b"late")
    assert (await journal.attempts_of(paused.lease.key))[0] == late


async def test_a_late_result_is_fenced_after_the_call_is_done(journal: LapsingJournal, lane: str) -> None:
    paused = await granted(journal, offer(lane), "w1")
    second = await granted(journal, offer(lane), "w2")
    await journal.finish(second.lease, second.attempt.attempt_id, DONE, b"right")
    with pytest.raises(FencedError):
        await journal.finish(paused.lease, paused.attempt.attempt_id, DONE, b"late")
    claim = await journal.claim(offer(lane), owner="w3")
    assert isinstance(claim, Done) and claim.result == b"right"


async def test_a_fenced_owner_can_do_nothing_else_either(journal: LapsingJournal, lane: str) -> None:
    paused = await granted(journal, offer(lane), "w1")
    await granted(journal, offer(lane), "w2")
    with pytest.raises(FencedError):
        await journal.next_attempt(paused.lease, TARGET)
    with pytest.raises(FencedError):
        await journal.fail_attempt(paused.lease, paused.attempt.attempt_id, FAILED, GIVEN_UP)
    with pytest.raises(FencedError):
        await journal.end(paused.lease, GIVEN_UP)
    assert await journal.renew("w1", [paused.lease]) == frozenset()
    late = (await journal.attempts_of(paused.lease.key))[0]
    assert (late.state, late.cost_usd, late.duplicate) == ("failed", Decimal(0), False)


async def test_a_result_whose_lease_ran_out_unnoticed_is_taken(journal: LapsingJournal, lane: str) -> None:
    grant = await granted(journal, offer(lane))
    await journal.lapse(grant.lease.key)
    await journal.finish(grant.lease, grant.attempt.attempt_id, DONE, b"result")
    assert isinstance(await journal.claim(offer(lane), owner="w2"), Done)


async def test_the_input_as_first_seen_wins(journal: LapsingJournal, lane: str) -> None:
    await granted(journal, offer(lane), "w1")
    drifted = await granted(journal, offer(lane, input_hash="h2", input=b"other"), "w2")
    assert (drifted.input, drifted.input_hash) == (b"\x00input", "h1")


async def test_an_expired_request_leaves_nothing_behind(journal: LapsingJournal, lane: str) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert await journal.claim(offer(lane, expires_at=past), owner="w1") == Expired()
    assert await journal.claim(offer(lane, expired=True), owner="w1") == Expired()
    assert await journal.attempts_of(offer(lane).key) == ()


async def test_a_lost_call_of_an_expired_request_is_booked_and_not_repeated(journal: LapsingJournal, lane: str) -> None:
    await granted(journal, offer(lane), "w1")
    claim = await settled(journal, offer(lane, expired=True), "w2")
    assert isinstance(claim, Ended) and claim.failure.kind == "expired" and claim.attempts[0].state == "unknown"


async def test_a_failure_is_kept_and_repeating_it_is_harmless(journal: LapsingJournal, lane: str) -> None:
    grant = await granted(journal, offer(lane))
    rows = await journal.fail_attempt(grant.lease, grant.attempt.attempt_id, FAILED, GIVEN_UP)
    assert await journal.fail_attempt(grant.lease, grant.attempt.attempt_id, FAILED, GIVEN_UP) == rows
    claim = await journal.claim(offer(lane), owner="w2")
    assert isinstance(claim, Ended) and claim.failure == GIVEN_UP and claim.attempts == rows


async def test_all_leases_of_a_worker_are_renewed_at_once(journal: LapsingJournal, lane: str) -> None:
    keeper, since = LeaseKeeper(journal, owner="w1"), time.monotonic()
    wanted = [replace(offer(lane), key=replace(offer(lane).key, request_id=f"r{n}")) for n in range(20)]
    grants = [await granted(journal, one) for one in wanted]
    for one in wanted[:3]:
        await journal.lapse(one.key)
    with keeper.holding(grants[0].lease, since=since), keeper.holding(grants[1].lease, since=since):
        await keeper.renew()
        kept, also, dropped = [await journal.claim(one, owner="w2") for one in wanted[:3]]
    assert isinstance(kept, Busy) and isinstance(also, Busy) and isinstance(dropped, Granted)


async def test_a_lease_is_trusted_again_once_it_was_renewed_in_the_background(database: Database, lane: str) -> None:
    journal = PostgresJournal(database, lease_s=3.0)
    keeper = LeaseKeeper(journal, owner="w1")
    lease = (await granted(LapsingJournal(database), offer(lane))).lease
    with keeper.holding(lease, since=time.monotonic() - 3.0):
        assert not keeper.trusts(lease), "as after a pause"
        keeper.start()
        await until(lambda: keeper.trusts(lease), "a renewal")
        await keeper.stop()
    assert not keeper.trusts(lease)


async def test_what_was_kept_of_an_attempt_is_the_next_owners_until_the_call_has_ended(
    journal: LapsingJournal, lane: str
) -> None:
    wanted = offer(lane)
    first = await granted(journal, wanted)
    await journal.fail_attempt(first.lease, first.attempt.attempt_id, FAILED, keep=b"\x00kept")
    assert await journal.kept(wanted.key) == b"\x00kept"
    attempt = await journal.next_attempt(first.lease, TARGET)
    await journal.fail_attempt(first.lease, attempt.attempt_id, FAILED)
    second = await granted(journal, wanted, "w2")
    assert (second.kept, second.over) == (b"\x00kept", None)
    with pytest.raises(FencedError):
        await journal.fail_attempt(first.lease, attempt.attempt_id, FAILED, keep=b"late")
    await journal.finish(second.lease, second.attempt.attempt_id, DONE, b"result")
    assert await journal.kept(wanted.key) is None


async def test_a_call_that_may_not_go_on_is_granted_to_whoever_ends_it_with_what_was_kept(
    journal: LapsingJournal, lane: str
) -> None:
    first = await granted(journal, offer(lane))
    await journal.fail_attempt(first.lease, first.attempt.attempt_id, FAILED, keep=b"kept")
    second = await granted(journal, offer(lane, max_attempts=1, stands=True), "w2")
    assert second.kept == b"kept" and second.over is not None and second.over.code == "http_500"
    third = await granted(journal, offer(lane, refused=GIVEN_UP, stands=True), "w3")
    assert third.over == GIVEN_UP
    claim = await settled(journal, offer(lane, refused=GIVEN_UP), "w4")
    assert isinstance(claim, Ended) and claim.failure == GIVEN_UP
    assert await journal.kept(offer(lane).key) is None
