"""How long a first call is given alone, and how many calls may be hedged."""

from __future__ import annotations

import random

import pytest

from processors.complete.routes import HedgePolicy
from processors.routing.hedge_pace import HedgePace, Wait

POLICY = HedgePolicy(quantile=0.95, floor_s=0.5, minimum_samples=20, before_s=7.0, share=0.1)


def pace(*latencies_s: float, at: float = 0.0) -> HedgePace:
    made = HedgePace(POLICY)
    for latency_s in latencies_s:
        made.heard(latency_s, at)
    return made


def test_the_wait_is_the_percentile_of_what_recent_calls_took_to_begin() -> None:
    assert pace(*(float(n) for n in range(1, 101))).wait(1.0) == Wait(95.0, 100)
    assert pace(*([1.0] * 19), 60.0).wait(1.0) == Wait(1.0, 20)
    assert pace(*([1.0] * 18), 60.0, 60.0).wait(1.0) == Wait(60.0, 20)


def test_it_is_the_setting_while_there_are_too_few_of_them_and_never_under_the_floor() -> None:
    assert pace(*([1.0] * 19)).wait(1.0) == Wait(7.0, 0)
    assert pace(*([0.01] * 20)).wait(1.0) == Wait(0.5, 20)


def test_what_is_long_ago_says_nothing_of_now() -> None:
    made = pace(*([30.0] * 50), at=0.0)
    assert made.wait(599.0) == Wait(30.0, 50)
    assert made.wait(600.0) == Wait(7.0, 0)
    for _ in range(600):
        made.heard(2.0, 601.0)
    assert made.wait(602.0) == Wait(2.0, 500)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 1.0])
def test_no_more_than_the_share_of_the_calls_is_hedged(share: float) -> None:
    made = HedgePace(HedgePolicy(share=share))
    hedged = 0
    for calls in range(1, 401):
        made.called()
        if made.may_hedge:
            made.hedged()
            hedged += 1
        assert hedged <= share * calls + 1e-6
    assert hedged >= share * 400 - 1


def test_no_more_than_the_share_of_all_calls_is_hedged_however_they_fall_to_processes() -> None:
    """Each holds the share by itself, so that nobody has to be asked; processes that end and begin don't add to it."""
    chance = random.Random(7)
    processes = [HedgePace(HedgePolicy(share=0.05)) for _ in range(8)]
    hedged = 0
    for calls in range(1, 4_001):
        place = min(chance.randrange(8), chance.randrange(8))
        if chance.random() < 0.01:
            processes[place] = HedgePace(HedgePolicy(share=0.05))
        processes[place].called()
        if processes[place].may_hedge:
            processes[place].hedged()
            hedged += 1
        assert hedged <= 0.05 * calls + 1e-6
    assert hedged > 0.02 * 4_000


def test_what_was_not_used_is_saved_up_to_a_bound() -> None:
    made = HedgePace(HedgePolicy(share=0.1))
    for _ in range(10_000):
        made.called()
    hedged = 0
    while made.may_hedge:
        made.hedged()
        hedged += 1
    assert hedged == 10
