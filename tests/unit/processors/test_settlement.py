"""Token limits are settled to what a request used: once, whoever asks, and never for what was not charged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from processors.admit.buckets import Draw, FakeBuckets
from processors.admit.limits import LimitPolicy, Rates, Step, TierLimits, per_minute
from processors.admit.settlement import FakeSettlement, Settling, Used, differences, tokens_used
from processors.clock import FakeClock
from processors.event import Incoming, Output
from schemas.codec import Codec
from schemas.errors import (
    DependencyDownError,
    HeadraceError,
    IndeterminateError,
    NotYetError,
    OversizedError,
    PermanentProviderError,
    RefusedError,
    TransientProviderError,
    UnencodableError,
)
from schemas.records import Cost, Usage
from tests.support.costs import cost
from tests.support.enrichments import enrichment, incoming

CODEC = Codec.offline()
POLICY = LimitPolicy(
    tiers={"standard": TierLimits(user=Rates(tokens=per_minute(1_000)), tenant=Rates(requests=per_minute(60)))},
    everyone=Rates(tokens=per_minute(9_000)),
    answer_tokens={"default": 500},
)
USER, ALL = "live/user.tokens/acme/u1", "live/everyone.tokens/"


def spent(prompt: int, completion: int, **fields: Any) -> Cost:
    return cost("a", usage=Usage(prompt_tokens=prompt, completion_tokens=completion), **fields)


class Scene:
    def __init__(self, outcome: Sequence[Output] | HeadraceError, *, calls: bool = True) -> None:
        self.buckets = FakeBuckets(FakeClock(datetime(2026, 1, 1, tzinfo=UTC)))
        self.settlement = FakeSettlement(self.buckets)
        self.outcome = outcome
        self.settling = Settling(self._process, POLICY, self.settlement, calls=calls)
        self.event = incoming(enrichment("r1"), CODEC)

    async def _process(self, _incoming: Incoming[Any]) -> Sequence[Output]:
        if isinstance(self.outcome, HeadraceError):
            raise self.outcome
        return self.outcome

    @property
    def estimate(self) -> int:
        return POLICY.tokens_of(self.event.record.request, "default")

    async def charge(self) -> None:
        steps = POLICY.steps(self.event.record.request, lane="live", tier="standard", route="default")
        await self.buckets.draw([Draw(bucket=one.bucket, rate=one.rate, must=one.amount) for one in steps])

    def used(self) -> tuple[float, float]:
        return 1_000 - self.buckets.levels[USER].level, 9_000 - self.buckets.levels[ALL].level


@pytest.mark.parametrize(("prompt", "completion"), [(10, 20), (700, 800)])
async def test_what_was_used_takes_the_place_of_the_estimate_in_every_bucket(prompt: int, completion: int) -> None:
    scene = Scene([spent(prompt, completion)])
    await scene.charge()
    assert scene.used() == (scene.estimate, scene.estimate)
    for _ in range(3):
        await scene.settling(scene.event)
    assert scene.used() == (prompt + completion, prompt + completion)
    assert scene.buckets.levels["live/tenant.requests/acme"].level == 59, "requests stay as they were charged"


@pytest.mark.parametrize(
    ("costs", "tokens"),
    [
        ([], 0),
        ([spent(10, 5), spent(3, 1)], 19),
        ([spent(0, 0, state="failed"), spent(10, 5)], 15),
        ([spent(0, 0, served_by="cache-exact")], 0),
        ([spent(9_999, 9_999, state="unknown", upper_bound=True), spent(10, 5)], 115),
        ([spent(10, 5), spent(10, 5, correction="late")], 15),
    ],
)
def test_what_was_used_is_counted_where_it_is_known(costs: list[Cost], tokens: int) -> None:
    assert tokens_used(costs, estimate=100) == tokens


async def test_a_request_that_ends_without_a_call_gets_all_of_it_back() -> None:
    for calls in (True, False):
        scene = Scene(RefusedError("expired", "too late", status="expired"), calls=calls)
        await scene.charge()
        with pytest.raises(RefusedError):
            await scene.settling(scene.event)
        assert scene.used() == (0, 0)


@pytest.mark.parametrize("calls", [True, False])
async def test_a_provider_that_will_never_answer_gives_all_of_it_back(calls: bool) -> None:
    # No such route or model; or texts that the embedding endpoint does not take.
    scene = Scene(PermanentProviderError("unknown_model", "no such model"), calls=calls)
    await scene.charge()
    for _ in range(2):
        with pytest.raises(PermanentProviderError):
            await scene.settling(scene.event)
    assert scene.used() == (0, 0)


@pytest.mark.parametrize("error", [UnencodableError("no"), OversizedError("no")])
async def test_a_dead_letter_gives_all_of_it_back_where_no_call_was_made_before(error: HeadraceError) -> None:
    before = Scene(error, calls=False)
    after = Scene(error, calls=True)
    for scene in (before, after):
        await scene.charge()
        with pytest.raises(type(error)):
            await scene.settling(scene.event)
    assert before.used() == (0, 0)
    assert after.used() == (after.estimate, after.estimate), "nobody knows what was spent"


async def test_what_an_error_says_was_spent_is_settled_too() -> None:
    error = IndeterminateError("nobody knows")
    error.outputs = (spent(1, 2),)
    scene = Scene(error)
    await scene.charge()
    with pytest.raises(IndeterminateError):
        await scene.settling(scene.event)
    assert scene.used() == (3, 3)


@pytest.mark.parametrize(
    "error",
    [
        NotYetError(5.0, "no deployment"),
        DependencyDownError("postgres", "away"),
        TransientProviderError("http_503", "away"),
    ],
)
async def test_a_request_that_comes_again_is_not_settled_yet(error: HeadraceError) -> None:
    for calls in (True, False):
        scene = Scene(error, calls=calls)
        with pytest.raises(type(error)):
            await scene.settling(scene.event)
        assert not scene.settlement.settled


async def test_a_stage_that_makes_no_call_settles_nothing_when_the_request_goes_on() -> None:
    scene = Scene([], calls=False)
    await scene.settling(scene.event)
    assert not scene.settlement.settled


async def test_a_run_of_its_own_is_not_settled() -> None:
    scene = Scene([spent(1, 2)])
    scene.event = replace(scene.event, meta=replace(scene.event.meta, run="redrive-1"))
    await scene.settling(scene.event)
    assert not scene.settlement.settled


def test_several_requests_move_a_bucket_once() -> None:
    rate = per_minute(1_000)
    steps = (Step(name="user.tokens", bucket="b", rate=rate, amount=100),)
    used = [Used(tenant="t", lane="l", request_id=str(n), steps=steps, tokens=n) for n in (40, 90, 100)]
    assert differences(used) == [Draw(bucket="b", rate=rate, returned=70.0)]
    assert differences([*used, Used(tenant="t", lane="l", request_id="x", steps=steps, tokens=200)]) == [
        Draw(bucket="b", rate=rate, must=30)
    ]
    assert differences(used[2:]) == []


def test_whether_any_limit_is_of_tokens() -> None:
    assert POLICY.counts_tokens and not LimitPolicy().counts_tokens
    assert LimitPolicy(tenants={"acme": Rates(tokens=per_minute(5))}).counts_tokens
