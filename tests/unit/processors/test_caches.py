"""The caches of the complete stage on the shipped fakes: who calls, who waits, who is served, and what is booked."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from processors.cache import CachePolicy
from processors.event import Incoming, Recorded
from processors.model.port import echo
from schemas.errors import (
    DependencyDownError,
    NotYetError,
    PermanentProviderError,
    RefusedError,
    TransientProviderError,
)
from schemas.records import (
    Answer,
    Completion,
    Cost,
    Enrichment,
)
from tests.support.caching import ON, CacheBench
from tests.support.completing import as_bytes, event
from tests.support.enrichments import ACCEPTED

SEMANTIC = replace(ON, semantic=True, similarity=0.8)


def ask(request_id: str, **changes: Any) -> Incoming[Enrichment]:
    return event(request_id, **changes)


def split(outputs: Any) -> tuple[list[Cost], Completion]:
    *costs, last = outputs
    completion = last.record if isinstance(last, Recorded) else last
    assert isinstance(completion, Completion)
    return costs, completion


async def test_an_identical_request_is_served_without_a_call_and_books_what_was_avoided() -> None:
    bench = CacheBench()
    stage = bench.worker()
    [paid], original = split(await stage(ask("r1")))
    [cost], served = split(await stage(ask("r2")))
    assert bench.paid() == 1
    assert served.text == original.text and served.meta.request_id == "r2"
    assert (served.served_by, served.source_event_id) == ("cache-exact", original.meta.event_id)
    assert not served.cost_usd and not served.attempts and served.avoided_cost_usd == original.cost_usd
    assert not cost.amount_usd and (cost.avoided_cost_usd, cost.served_by) == (paid.amount_usd, "cache-exact")
    assert cost.incurred_at is not None and cost.attempt_id != paid.attempt_id
    assert bench.seen.counts == {("exact", "miss"): 1, ("exact", "hit"): 1}
    assert bench.seen.avoided == paid.amount_usd > 0


async def test_a_redelivery_says_the_same_when_the_cache_has_expired_or_is_off_by_then() -> None:
    bench = CacheBench()
    await bench.worker()(ask("r1"))
    first = as_bytes(await bench.worker()(ask("r2")))
    bench.clock.advance(61)
    assert as_bytes(await bench.worker()(ask("r2"))) == first
    assert as_bytes(await bench.worker(policy=CachePolicy())(ask("r2"))) == first
    bench.store.entries.clear()
    assert as_bytes(await bench.worker()(ask("r2"))) == first
    assert bench.paid() == 1
    # A new request finds the answer too old.
    await bench.worker()(ask("r3"))
    assert bench.paid() == 2


async def test_without_caches_nothing_is_asked_of_the_store() -> None:
    bench = CacheBench(CachePolicy())
    await bench.worker()(ask("r1"))
    await bench.worker()(ask("r2"))
    on = CacheBench()
    await on.worker()(ask("r1", cache="off"))
    await on.worker()(ask("r2", cache="off"))
    assert (bench.paid(), bench.store.trips, on.paid(), on.store.trips) == (2, 0, 2, 0)


async def test_the_level_in_the_process_spares_the_store() -> None:
    bench = CacheBench()
    stage = bench.worker()
    await stage(ask("r1"))
    trips = bench.store.trips
    await stage(ask("r2"))
    assert bench.store.trips == trips
    await bench.worker("other")(ask("r3"))
    assert bench.store.trips == trips + 1 and bench.paid() == 1


@pytest.mark.parametrize("workers", [1, 2])
async def test_identical_requests_in_flight_wait_for_one_call(workers: int) -> None:
    bench = CacheBench()
    release = asyncio.Event()
    bench.model.hold = release
    stages = [bench.worker(f"w{n}") for n in range(workers)]
    asked = [asyncio.create_task(stages[n % workers](ask(f"r{n}"))) for n in range(20)]
    while bench.seen.counts["flight", "wait"] < 19:
        await asyncio.sleep(0)
    # None of those that wait holds a slot of the deployment, which has four: another question is answered meanwhile.
    other = asyncio.create_task(stages[0](ask("other", text="something else")))
    while bench.paid() < 2:
        await asyncio.sleep(0)
    release.set()
    await other
    outcomes = [split(await each)[1] for each in asked]
    assert bench.paid() == 2
    assert Counter(one.served_by for one in outcomes) == {"model": 1, "cache-exact": 19}
    assert len({one.meta.event_id for one in outcomes}) == 20


async def test_when_the_one_call_fails_the_others_make_their_own() -> None:
    bench = CacheBench(max_attempts=1)
    release = asyncio.Event()
    bench.model.hold = release
    bench.fail_with(PermanentProviderError("http_400", "no"))
    stage = bench.worker()
    asked = [asyncio.create_task(stage(ask(f"r{n}"))) for n in range(4)]
    while bench.seen.counts["flight", "wait"] < 3:
        await asyncio.sleep(0)
    release.set()
    outcomes = [(await each)[-1] for each in asked]
    kinds = Counter(type(one.record if isinstance(one, Recorded) else one).__name__ for one in outcomes)
    assert kinds == {"Answer": 1, "Completion": 3}
    assert bench.seen.counts["flight", "alone"] == 3


async def test_a_leader_that_died_is_followed_by_one_that_waited_and_is_served_itself_when_it_comes_back() -> None:
    bench = CacheBench()
    dead = bench.worker("dead")

    async def die(*_: Any, **__: Any) -> None:
        raise asyncio.CancelledError

    dead._caller.run = die  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await dead(ask("r1"))
    stage = bench.worker()
    waiting = asyncio.create_task(stage(ask("r2")))
    while not bench.seen.counts["flight", "wait"]:
        await asyncio.sleep(0)
    bench.clock.advance(16)
    _, second = split(await waiting)
    assert (second.served_by, bench.paid()) == ("model", 1)
    costs, first = split(await stage(ask("r1")))
    assert (first.served_by, bench.paid()) == ("cache-exact", 1)
    # What it may have paid before is booked as it would be without caches.
    assert [(cost.state, cost.served_by) for cost in costs] == [("unknown", "model"), ("done", "cache-exact")]
    assert first.cost_usd == costs[0].amount_usd > 0
    assert as_bytes(await stage(ask("r1"))) == as_bytes(await bench.worker()(ask("r1")))


async def test_a_cached_request_that_is_cancelled_or_too_late_ends_as_usual() -> None:
    bench = CacheBench()
    stage = bench.worker()
    await stage(ask("r1"))
    bench.control.cancel("acme", "r2")
    with pytest.raises(RefusedError, match="cancelled"):
        await stage(ask("r2"))
    with pytest.raises(RefusedError) as refusal:
        await stage(ask("r3", expires_at=ACCEPTED - timedelta(seconds=1)))
    assert refusal.value.status == "expired" and bench.seen.counts["exact", "hit"] == 0


async def test_a_waiter_that_is_cancelled_lets_go() -> None:
    bench = CacheBench()
    release = asyncio.Event()
    bench.model.hold = release
    stage = bench.worker()
    first = asyncio.create_task(stage(ask("r1")))
    second = asyncio.create_task(stage(ask("r2")))
    while not bench.seen.counts["flight", "wait"]:
        await asyncio.sleep(0)
    bench.control.cancel("acme", "r2")
    with pytest.raises(RefusedError, match="cancelled"):
        await second
    release.set()
    await first
    assert bench.paid() == 1


async def test_when_the_first_is_cancelled_one_of_the_others_makes_the_call() -> None:
    bench = CacheBench()
    release = asyncio.Event()
    bench.model.hold = release
    stage = bench.worker()
    first = asyncio.create_task(stage(ask("r0")))
    while not bench.paid():
        await asyncio.sleep(0)
    others = [asyncio.create_task(stage(ask(f"r{n}"))) for n in (1, 2, 3)]
    while bench.seen.counts["flight", "wait"] < 3:
        await asyncio.sleep(0)
    bench.control.cancel("acme", "r0")
    *_, answer = await first
    assert isinstance(answer, Answer) and answer.failure is not None and answer.failure.code == "cancelled"
    release.set()
    assert Counter([split(await each)[1].served_by for each in others]) == {"model": 1, "cache-exact": 2}
    assert bench.paid() == 2 and not bench.seen.counts["flight", "alone"]


async def test_an_answer_that_was_cut_off_serves_nobody_else() -> None:
    bench = CacheBench()
    bench.model.script = lambda call: replace(echo(call), finish_reason="length")
    stage = bench.worker()
    await stage(ask("r1"))
    await stage(ask("r2"))
    assert bench.paid() == 2
    bench.model.script = None
    bench.clock.advance(1)
    await stage(ask("r3"))
    assert bench.paid() == 3
    # Its place was taken: a whole answer is there for the next.
    await bench.worker()(ask("r4"))
    assert bench.paid() == 3


async def test_another_deployments_answer_is_for_those_who_waited_and_for_nobody_later() -> None:
    bench = CacheBench()
    release = asyncio.Event()
    bench.model.hold = release
    # The same route and model; what answers the first request is none of the second worker's own deployments.
    fallen = bench.worker("w1")
    stage = bench.worker("w2", route=replace(bench.route, deployment=replace(bench.route.deployment, name="d2")))
    first = asyncio.create_task(fallen(ask("r1")))
    while not bench.paid():
        await asyncio.sleep(0)
    second = asyncio.create_task(stage(ask("r2")))
    while not bench.seen.counts["flight", "wait"]:
        await asyncio.sleep(0)
    release.set()
    assert [split(await each)[1].served_by for each in (first, second)] == ["model", "cache-exact"]
    assert bench.paid() == 1
    await stage(ask("r3"))
    assert bench.paid() == 2


async def test_single_flight_alone_serves_what_was_asked_before_the_answer_and_nothing_later() -> None:
    bench = CacheBench(CachePolicy(single_flight=True))
    await bench.worker()(ask("r1"))
    early, late = ask("r2"), ask("r3")
    late = replace(late, appended_at=bench.clock.now() + timedelta(seconds=1))
    await bench.worker()(early)
    assert bench.paid() == 1
    await bench.worker()(late)
    assert bench.paid() == 2


async def test_without_single_flight_nobody_waits() -> None:
    bench = CacheBench(replace(ON, single_flight=False))
    release = asyncio.Event()
    bench.model.hold = release
    stage = bench.worker()
    asked = [asyncio.create_task(stage(ask(f"r{n}"))) for n in range(3)]
    while bench.paid() < 3:
        await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*asked)
    await stage(ask("r9"))
    assert bench.paid() == 3


async def test_a_question_that_is_near_is_served_and_one_that_is_not_is_called() -> None:
    bench = CacheBench(SEMANTIC)
    stage = bench.worker()
    await stage(ask("r1", text="How do I reset the password of my account today?"))
    _, near = split(await stage(ask("r2", text="How do I reset the password of my account?")))
    assert (near.served_by, bench.paid()) == ("cache-semantic", 1)
    _, far = split(await stage(ask("r3", text="Where is the invoice?")))
    assert (far.served_by, bench.paid()) == ("model", 2)
    # Once more, word for word: what was near is no original of its own.
    _, again = split(await stage(ask("r4", text="How do I reset the password of my account?")))
    assert (again.served_by, again.source_event_id) == ("cache-semantic", near.source_event_id)
    payers = {payer.meta.request_id: payer for payer in bench.hashing.payers if payer is not None}
    assert set(payers) == {"r1", "r2", "r3", "r4"}
    assert (payers["r3"].stage, payers["r3"].team, payers["r3"].keeps) == ("complete", "search", True)


async def test_without_embeddings_the_semantic_cache_misses_and_nothing_waits() -> None:
    bench = CacheBench(SEMANTIC)
    bench.hashing.failure = DependencyDownError("embeddings", "away")
    _, completion = split(await bench.worker()(ask("r1")))
    assert completion.served_by == "model" and bench.seen.counts["semantic", "down"] == 1


async def test_a_second_run_of_a_request_that_was_served_uses_that_answer() -> None:
    bench = CacheBench()
    stage = bench.worker()
    _, original = split(await stage(ask("r1")))
    await stage(ask("r2"))
    bench.clock.advance(120)
    again = ask("r2")
    again = replace(again, meta=replace(again.meta, run="redrive-1"))
    [cost], completion = split(await stage(again))
    assert (completion.served_by, cost.served_by, bench.paid()) == ("journal", "journal", 1)
    assert completion.avoided_cost_usd == cost.avoided_cost_usd == original.cost_usd
    assert completion.text == original.text


async def test_when_the_first_is_set_aside_for_long_one_of_the_others_makes_the_call() -> None:
    bench = CacheBench()
    bench.model.hold = asyncio.Event()
    bench.fail_with(TransientProviderError("http_429", "429", http_status=429, retry_after_s=90))
    first = asyncio.create_task(bench.worker("w1")(ask("r0")))
    while not bench.paid():
        await asyncio.sleep(0)
    other = asyncio.create_task(bench.worker("w2")(ask("r1")))
    while not bench.seen.counts["flight", "wait"]:
        await asyncio.sleep(0)
    bench.model.hold.set()
    with pytest.raises(NotYetError):
        await first
    assert split(await other)[1].served_by == "model"
