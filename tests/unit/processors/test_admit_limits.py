"""Rate limits: the arithmetic of buckets, and workers that share them."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.admit.buckets import Draw, Drawn, FakeBuckets, Level, Rate, take
from processors.admit.limiter import Charge, Charged, Limiter
from processors.admit.limits import NO_RATES, LimitPolicy, Rates, Step, TierLimits, per_minute
from processors.clock import FakeClock
from schemas.errors import DependencyDownError
from schemas.records import Sampling
from tests.support.admission import request

START = datetime(2026, 1, 1, tzinfo=UTC)
RATE = st.builds(
    Rate, per_minute=st.floats(0.1, 100_000), burst=st.floats(1, 10_000, allow_nan=False, allow_infinity=False)
)


@given(
    rate=RATE,
    moves=st.lists(
        st.tuples(st.floats(-5, 120), st.integers(0, 500), st.integers(0, 50), st.booleans()), min_size=1, max_size=40
    ),
)
def test_over_any_span_a_bucket_gives_at_most_its_burst_and_what_the_span_brings(
    rate: Rate, moves: list[tuple[float, int, int, bool]]
) -> None:
    stored: Level | None = None
    now, taken, unused = START, [], 0.0
    for step_s, wish, must, returns in moves:
        # A clock that runs backwards now and then must bring nothing.
        now += timedelta(seconds=step_s)
        draw = Draw(bucket="b", rate=rate, wish=wish, must=must, returned=unused if returns else 0.0)
        before = stored
        stored, drawn = take(stored, draw, now)
        assert 0 <= drawn.granted <= wish and drawn.granted == math.floor(drawn.granted)
        assert drawn.available <= rate.burst
        assert stored.level == pytest.approx(drawn.available - must - drawn.granted)
        if drawn.granted:
            assert stored.level >= -1e-6, "a wish never takes what is not there"
        assert before is None or stored.at >= before.at
        taken.append((stored.at, drawn.granted + must - draw.returned))
        unused = drawn.granted if not returns else 0.0
    debt = max(0.0, -stored.level) if stored else 0.0
    for first in range(len(taken)):
        span_s = (taken[-1][0] - taken[first][0]).total_seconds()
        given_out = sum(amount for _, amount in taken[first:])
        assert given_out <= rate.burst + rate.per_s * span_s + debt + 1e-6 * (1 + abs(given_out))


def test_what_is_owed_comes_in_before_anything_is_given() -> None:
    rate = Rate(per_minute=60, burst=10)
    level, drawn = take(None, Draw(bucket="b", rate=rate, must=15), START)
    assert (level.level, drawn) == (-5, Drawn(0.0, 10))
    level, drawn = take(level, Draw(bucket="b", rate=rate, wish=3), START + timedelta(seconds=4))
    assert drawn.granted == 0
    level, drawn = take(level, Draw(bucket="b", rate=rate, wish=3), START + timedelta(seconds=7))
    assert drawn.granted == 2


def step(amount: int = 1, *, rate: Rate | None = None, name: str = "tenant.requests", holder: str = "acme") -> Step:
    return Step(name=name, bucket=f"live/{name}/{holder}", rate=rate or per_minute(10), amount=amount)


class Bench:
    """Workers over one set of buckets, and their common time."""

    def __init__(self) -> None:
        self.clock = FakeClock(START)
        self.buckets = FakeBuckets(self.clock)

    def worker(self) -> Limiter:
        return Limiter(self.buckets, monotonic=self.monotonic)

    def monotonic(self) -> float:
        return (self.clock.now() - START).total_seconds()


async def charge(limiter: Limiter, *steps: Step, longest_wait_s: float = 0.0) -> Charged:
    return await limiter.charge(Charge(steps=steps, longest_wait_s=longest_wait_s))


async def test_a_tenant_gets_its_minute_at_once_and_then_waits_for_the_next() -> None:
    bench = Bench()
    workers = [bench.worker() for _ in range(3)]
    charged = [await charge(workers[n % 3], step()) for n in range(12)]
    assert [one.verdict for one in charged] == ["admitted"] * 10 + ["rejected"] * 2
    assert charged[-1].by == "tenant.requests" and charged[-1].wait_s == pytest.approx(6.0)
    bench.clock.advance(6.1)
    assert (await charge(workers[0], step())).verdict == "admitted"
    assert (await charge(workers[1], step())).verdict == "rejected"


async def test_requests_that_come_together_are_charged_in_one_round_trip() -> None:
    bench = Bench()
    limiter = bench.worker()
    charged = await asyncio.gather(*(charge(limiter, step(), step(holder="other")) for _ in range(8)))
    assert {one.verdict for one in charged} == {"admitted"} and bench.buckets.trips == 1


async def test_a_busy_worker_asks_rarely_and_what_it_does_not_use_goes_back() -> None:
    bench = Bench()
    limiter, rate = bench.worker(), per_minute(60_000)
    admitted = 0
    for _ in range(2000):
        bench.clock.advance(0.002)
        admitted += (await charge(limiter, step(rate=rate))).verdict == "admitted"
    assert admitted == 2000 and bench.buckets.trips < 60
    await limiter.close()
    [level] = bench.buckets.levels.values()
    assert level.level == pytest.approx(60_000, abs=2), "all but what was used is there for others, or came in since"


async def test_a_share_that_is_too_old_is_not_used_but_given_back() -> None:
    bench = Bench()
    limiter = bench.worker()
    first = await charge(limiter, step())
    limiter.give_back(first.paid)
    await charge(limiter, step())
    assert bench.buckets.trips == 1, "it is at hand while it is fresh"
    limiter.give_back(first.paid)
    bench.clock.advance(0.6)
    await charge(limiter, step())
    assert bench.buckets.trips == 2
    [level] = bench.buckets.levels.values()
    assert level.level == pytest.approx(9, abs=0.2)
    await limiter.close()


async def test_whoever_waits_has_a_place_and_the_next_one_waits_longer() -> None:
    bench = Bench()
    one, other = bench.worker(), bench.worker()
    for _ in range(10):
        await charge(one, step())
    waits = [await charge(each, step(), longest_wait_s=60) for each in (one, other, one)]
    assert [charged.verdict for charged in waits] == ["queued"] * 3
    assert [charged.wait_s for charged in waits] == [pytest.approx(n) for n in (6, 12, 18)]
    late = await charge(other, step(), longest_wait_s=20)
    assert (late.verdict, late.wait_s) == ("rejected", pytest.approx(24)), "it would have to wait for too long"
    bench.clock.advance(12.5)
    assert (await charge(one, step())).verdict == "rejected", "what came in belongs to those who waited"
    together = await asyncio.gather(*(charge(one, step(), longest_wait_s=60) for _ in range(2)))
    assert sorted(charged.wait_s or 0 for charged in together) == [pytest.approx(11.5), pytest.approx(17.5)]


async def test_a_wider_limit_is_not_charged_for_who_is_over_a_narrow_one() -> None:
    bench = Bench()
    limiter = bench.worker()
    wide = step(name="everyone.requests", rate=per_minute(100), holder="")
    for _ in range(15):
        await charge(limiter, step(), wide)
    await limiter.close()
    assert bench.buckets.levels[wide.bucket].level == 90


async def test_a_request_that_never_fits_is_told_so_and_charged_nothing() -> None:
    bench = Bench()
    limiter = bench.worker()
    charged = await charge(limiter, step(), step(50, name="tenant.tokens"), longest_wait_s=900)
    assert (charged.verdict, charged.by, charged.wait_s) == ("rejected", "tenant.tokens", None)
    await limiter.close()
    assert all(level.level == 10 for level in bench.buckets.levels.values())


async def test_a_store_that_is_away_is_told_and_the_next_charge_is_as_good_as_any() -> None:
    bench = Bench()
    limiter = bench.worker()
    bench.buckets.down = True
    with pytest.raises(DependencyDownError):
        await charge(limiter, step())
    bench.buckets.down = False
    assert (await charge(limiter, step())).verdict == "admitted"


async def test_whoever_stops_waiting_is_charged_nothing() -> None:
    bench = Bench()
    limiter = bench.worker()
    task = asyncio.ensure_future(charge(limiter, step()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await charge(limiter, step())).verdict == "admitted"
    await limiter.close()
    [level] = bench.buckets.levels.values()
    assert level.level == 9


def names(policy: LimitPolicy, tier: str, **fields: Any) -> list[str]:
    return [each.name for each in policy.steps(request(**fields), lane="live", tier=tier, route="default")]


def test_tiers_have_their_defaults_and_others_no_limit() -> None:
    policy = LimitPolicy()
    for tier, most in (("free", 10), ("pro", 100), ("enterprise", 1000)):
        [only] = policy.steps(request(), lane="live", tier=tier, route="default")
        assert (only.name, only.rate.per_minute, only.amount) == ("tenant.requests", most, 1)
    assert not names(policy, "standard")


def test_a_request_passes_its_limits_from_the_narrowest_to_the_widest() -> None:
    both = Rates(requests=per_minute(10), tokens=per_minute(1000))
    policy = LimitPolicy(
        tiers={"free": TierLimits(user=both, tenant=both, together=both)},
        everyone=both,
        answer_tokens={"default": 500},
    )
    units = ("requests", "tokens")
    kinds = ("user", "tenant", "tier", "everyone")
    assert names(policy, "free", user="u1") == [f"{kind}.{unit}" for kind in kinds for unit in units]
    assert names(policy, "free") == [f"{kind}.{unit}" for kind in kinds[1:] for unit in units], "nobody is named"
    own = LimitPolicy(tiers=policy.tiers, tenants={"default": NO_RATES})
    assert "tenant.requests" not in names(own, "free")


def test_tokens_are_those_of_the_text_and_the_most_that_may_be_generated() -> None:
    policy = LimitPolicy(answer_tokens={"default": 500})
    plain = policy.tokens_of(request(), "default")
    assert 500 < plain < 530
    assert policy.tokens_of(request(sampling=Sampling(max_tokens=50, samples=2)), "default") == plain - 400
