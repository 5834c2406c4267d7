"""Breaker, limits, keys, retry budget and strategies: each for itself, on a clock that the test sets."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from processors.complete.routes import Deployment
from processors.routing.adaptive import AdaptiveLimit
from processors.routing.breaker import Breaker
from processors.routing.causes import cause_of, ended_with
from processors.routing.keys import ASIDE_S, KeyRing
from processors.routing.quota import Quota
from processors.routing.retry_budget import RetryBudget
from processors.routing.strategy import Candidate, choose
from schemas.errors import OutcomeUnknownError, PermanentProviderError, ProviderError, TransientProviderError


def call(breaker: Breaker, now: float, *, failed: bool | None) -> None:
    breaker.ended(now, failed=failed, probe=breaker.begin(now))


def test_five_failures_in_a_minute_open_the_breaker_and_a_probe_closes_it() -> None:
    breaker = Breaker()
    for second in range(5):
        assert breaker.wait_s(second) == 0
        call(breaker, second, failed=True)
    assert not breaker.closed and breaker.wait_s(4) == 30 and breaker.wait_s(33) == 1
    assert breaker.wait_s(34) == 0 and breaker.begin(34)
    assert breaker.wait_s(34) > 0 and not breaker.begin(34), "one probe at a time"
    breaker.ended(35, failed=False, probe=True)
    assert breaker.closed and breaker.wait_s(35) == 0


def test_a_probe_that_fails_doubles_the_wait_and_one_that_says_nothing_is_made_again() -> None:
    breaker = Breaker()
    for _ in range(5):
        call(breaker, 0, failed=True)
    assert breaker.begin(30)
    breaker.ended(31, failed=None, probe=True)
    assert breaker.wait_s(31) == 0 and breaker.begin(31)
    breaker.ended(32, failed=True, probe=True)
    assert breaker.wait_s(32) == 60


def test_failures_that_are_few_among_many_or_long_ago_open_nothing() -> None:
    breaker = Breaker()
    for n in range(1000):
        call(breaker, n / 100, failed=n % 10 == 0)
    assert breaker.closed
    breaker = Breaker()
    for n in range(20):
        call(breaker, n * 20.0, failed=True)
    assert breaker.closed, "three in any minute"


def test_the_limit_falls_by_a_factor_once_for_a_burst_of_429_and_rises_by_one_a_round() -> None:
    limit = AdaptiveLimit(100)
    for _ in range(50):
        limit.throttled(10.0, began=9.0)
    assert limit.size == 70
    limit.throttled(11.0, began=10.5)
    assert limit.size == 49
    for _ in range(50):
        limit.succeeded(12.0, began=11.5, in_flight=49, latency_s=0.1)
    assert limit.size == 50
    for _ in range(10):
        limit.succeeded(12.0, began=11.5, in_flight=2, latency_s=0.1)
    assert limit.size == 50, "what is not used does not grow"
    for n in range(100):
        limit.throttled(20.0 + n, began=20.0 + n)
    assert limit.size == 1


def test_calls_that_become_slow_cut_the_limit_but_never_below_its_floor() -> None:
    limit = AdaptiveLimit(40)
    for n in range(50):
        limit.succeeded(n, began=n - 0.2, in_flight=1, latency_s=0.2)
    assert limit.size == 40
    for n in range(200):
        limit.succeeded(100.0 + n, began=99.0 + n, in_flight=40, latency_s=9.0)
    assert limit.size == 10
    fast = AdaptiveLimit(40)
    for n in range(50):
        fast.succeeded(n, began=n - 0.1, in_flight=40, latency_s=0.01 if n < 25 else 0.2)
    assert fast.size == 40, "twenty times as slow, but not slow"


def test_requests_and_tokens_a_minute_are_kept_to() -> None:
    quota = Quota(requests_per_minute=60, tokens_per_minute=6000)
    now, sent = 0.0, 0
    while now < 60:
        wait_s = quota.wait_s(50, now)
        if wait_s:
            now += wait_s + 1e-6
            continue
        quota.take(50, now)
        sent += 1
    assert 60 + 9 <= sent <= 60 + 10
    quota = Quota(tokens_per_minute=6000)
    assert quota.wait_s(50_000, 0) == 0, "one that is larger than the bucket goes when that is full"
    quota.take(50_000, 0)
    assert quota.wait_s(1, 0) == pytest.approx(490, rel=0.01)
    quota.settle(50_000, 100, 0)
    assert quota.wait_s(800, 0) == 0
    assert Quota().wait_s(10**9, 0) == 0


def ring(count: int) -> KeyRing:
    keys = tuple(SecretStr(f"k{n}") for n in range(1, count + 1))
    return KeyRing(Deployment(name="d", base_url="http://d/v1", model="m", api_keys=keys))


def test_keys_are_spread_by_open_calls_and_paused_and_set_aside_alone() -> None:
    keys = ring(3)
    taken = [keys.take(n).number for n in range(9)]
    assert Counter(taken) == {1: 3, 2: 3, 3: 3}
    first, second, third = keys.keys
    keys.pause(first, 50.0)
    assert keys.set_aside(second, 10.0) and not keys.set_aside(second, 10.0)
    assert {keys.take(11.0).number for _ in range(5)} == {3}
    assert keys.aside == 1 and keys.wait_s(11.0) == 0
    keys.set_aside(third, 11.0)
    assert keys.wait_s(11.0) == 39 and not keys.denied(11.0)
    keys.set_aside(first, 11.0)
    assert keys.denied(11.0) and not keys.denied(11.0 + ASIDE_S)


def test_a_key_that_was_set_aside_is_tried_by_one_call_and_then_trusted_again() -> None:
    keys = ring(1)
    keys.set_aside(keys.keys[0], 0.0)
    key = keys.take(ASIDE_S)
    assert keys.denied(ASIDE_S + 1)
    assert keys.accepted(key) and not keys.denied(ASIDE_S + 1) and not keys.aside


def test_retries_are_a_share_of_the_calls_and_a_few_however_small_the_traffic() -> None:
    budget = RetryBudget()
    assert sum(budget.take(0.0) for _ in range(100)) == 10
    for _ in range(25):
        budget.first(0.0)
    assert sum(budget.take(0.0) for _ in range(100)) == 5
    assert sum(budget.take(60.0) for _ in range(100)) in (9, 10)


def candidate(name: str, **changes: Any) -> Candidate:
    values: dict[str, Any] = {"weight": 1.0, "busy": 0.5, "latency_s": 1.0, "cost_usd": Decimal(1)}
    return Candidate(name=name, **{**values, **changes})


def test_each_strategy_chooses_what_it_says() -> None:
    chance = random.Random(7)
    pair = [candidate("a", weight=9.0), candidate("b", weight=1.0)]
    chosen = Counter(choose(pair, "weighted", chance).name for _ in range(2000))
    assert 150 < chosen["b"] < 250
    none = [candidate("a"), candidate("b", weight=0.0)]
    assert {choose(none, "weighted", chance).name for _ in range(100)} == {"a"}
    assert choose([none[1]], "weighted", chance).name == "b", "where it is the only one that has room"
    assert choose([candidate("a"), candidate("b", busy=0.1)], "least_busy", chance).name == "b"
    quick = [candidate("a"), candidate("b", latency_s=0.2)]
    assert choose(quick, "lowest_latency", chance).name == "b"
    assert choose([*quick, candidate("c", latency_s=None)], "lowest_latency", chance).name == "c"
    assert choose([candidate("a"), candidate("b", cost_usd=Decimal("0.1"))], "cheapest", chance).name == "b"


@pytest.mark.parametrize(
    ("error", "cause", "finding"),
    [
        (TransientProviderError("http_429", "", http_status=429), "rate_limit", "throttled"),
        (PermanentProviderError("quota_exhausted", "", http_status=429), "rate_limit", "denied"),
        (TransientProviderError("http_503", "", http_status=503), "outage", "failed"),
        (TransientProviderError("connect_error", ""), "outage", "failed"),
        (OutcomeUnknownError("timeout_total", ""), "outage", "failed"),
        (PermanentProviderError("http_401", "", http_status=401), "outage", "denied"),
        (PermanentProviderError("model_not_found", "", http_status=404), "outage", "failed"),
        (PermanentProviderError("context_too_long", "", http_status=400), "context_too_long", "neutral"),
        (PermanentProviderError("content_refused", "", http_status=400), "content_refused", "neutral"),
        (TransientProviderError("malformed_response", "", http_status=200), "malformed_output", "failed"),
        (PermanentProviderError("http_400", "", http_status=400), None, "neutral"),
        (TransientProviderError("lease_lost", ""), "outage", "neutral"),
    ],
)
def test_an_error_says_where_else_to_go_and_what_it_means_for_the_deployment(
    error: ProviderError, cause: str | None, finding: str
) -> None:
    assert (cause_of(error), ended_with(error).finding) == (cause, finding)
