"""How much of a deployment is left to a replay, from what everybody tells."""

from __future__ import annotations

from typing import Any

import pytest

from processors.complete.routes import Deployment
from streams.capacity.rest import FRESH_S, GONE_S, Rest, Sight, rest_of
from streams.capacity.told import Holder, Told, endpoint_of

DEPLOYMENT = Deployment(name="main", base_url="http://main/v1", model="m", max_concurrency=16)
HERE = endpoint_of(DEPLOYMENT)


def live(*, age_s: float = 0.5, lane: str = "live", holder: str = "w0", **told: Any) -> Holder:
    use = Told(**{"name": "main", "limit": 16, **told})
    return Holder(holder=holder, kind="live", lane=lane, age_s=age_s, uses={HERE: use})


def replay(holder: str, **told: Any) -> Holder:
    return Holder(holder=holder, kind="replay", lane=holder, age_s=0.1, uses={HERE: Told(name="main", **told)})


def rest(*holders: Holder, members: int = 0, used: int | None = None, ceiling: int = 100, **own: int) -> Rest:
    sight = Sight.of(holders, HERE, lane="live", members=members)
    values = {"requests": 0, "tokens": 0, **own}
    return rest_of(sight, DEPLOYMENT, used=sight.most if used is None else used, ceiling=ceiling, **values)


@pytest.mark.parametrize(
    ("holders", "places", "why"),
    [
        # A tenth is kept free beside what live used: 16 - 6 - 2.
        ((live(most=6, in_flight=1),), 8, ""),
        ((live(most=14),), 0, "live used 14 of 16 places"),
        ((live(most=16),), 0, "live used 16 of 16"),
        # What one of two workers does not use is left, whoever of them it is.
        ((live(most=16), live(most=2, holder="w1", lane="bulk")), 10, ""),
        ((live(most=3, waiting=1),), 0, "live requests wait for a place (1)"),
        # A limit that the provider's refusals have cut is the one that counts.
        ((live(most=3, limit=4),), 0, "live used 3 of 4"),
        # Told too long ago to know what it does now: nothing, or what the others leave.
        ((live(age_s=FRESH_S + 1, most=1),), 0, "has not been heard of"),
        ((live(age_s=GONE_S - 1, most=1), live(holder="w1", most=6)), 8, ""),
        # Gone: only this process's own settings are left.
        ((live(age_s=GONE_S + 1, most=16),), 14, ""),
        ((), 14, ""),
    ],
)
def test_what_live_does_not_use_is_left(holders: tuple[Holder, ...], places: int, why: str) -> None:
    found = rest(*holders, members=len({one.holder for one in holders if one.lane == "live" and one.age_s < GONE_S}))
    assert found.places == places
    assert why in found.why
    assert bool(found.why) == (places == 0)


def test_what_live_used_before_counts_though_it_is_gone_now() -> None:
    assert rest(used=16).places == 0
    assert rest(live(most=1), used=10).places == 4


def test_workers_that_tell_nothing_leave_one_call_at_a_time() -> None:
    found = rest(members=1)
    assert (found.places, "not every live worker" in found.why) == (1, True)
    assert rest(live(most=2), members=2).places == 1
    assert rest(live(most=2), members=1).places == 12
    # Of another lane, so it is none of this one's two members.
    assert rest(live(most=2, lane="bulk"), members=1).places == 1


@pytest.mark.parametrize(("limit", "used", "places"), [(1, 0, 1), (1, 1, 0), (2, 0, 1), (2, 1, 0), (10, 0, 9)])
def test_a_small_deployment_can_be_replayed_while_live_is_idle(limit: int, used: int, places: int) -> None:
    assert rest(live(limit=limit, most=used)).places == places


def test_replays_share_what_is_left_and_never_take_more_together() -> None:
    # 16 - 4 - 2 = 10 for two.
    one = live(most=4)
    assert rest(one, replay("r1", most=0)).places == 5
    assert rest(one, replay("r1", most=5)).places == 5
    assert rest(one, replay("r1", most=8)).places == 2
    crowded = rest(one, replay("r1", most=10))
    assert (crowded.places, crowded.why) == (0, "other replays have what live leaves")
    assert rest(one, ceiling=3).places == 3


def test_another_endpoint_s_use_takes_nothing() -> None:
    other = Holder(holder="w0", kind="live", lane="live", age_s=0.1, uses={"elsewhere": Told(name="x", waiting=9)})
    assert rest(other, members=1).places == 14


def test_limits_a_minute_are_live_s_first() -> None:
    limited = live(most=1, requests=50, tokens=5_000, requests_per_minute=100, tokens_per_minute=10_000)
    found = rest(limited, requests=10, tokens=1_000)
    # A tenth is kept free: 90 - 50 - 10, and 9,000 - 5,000 - 1,000.
    assert (found.requests, found.tokens, found.largest) == (30, 3_000, 9_000)
    assert found.fits(3_000)
    assert not found.fits(3_001)
    assert not found.less(2_900).fits(200)
    assert rest(limited, replay("r1", requests=40), requests=0).requests == 0
    assert "of this minute are used" in rest(limited, replay("r1", requests=40)).why
    two = rest(limited, live(holder="w1", requests=5, requests_per_minute=100, tokens_per_minute=10_000))
    assert two.requests == 125
    # Where one of them has no limit there is none.
    assert rest(limited, live(holder="w1")).requests is None


def test_a_request_that_is_larger_than_a_minute_s_tokens_fits_once_nothing_else_does() -> None:
    found = rest(live(most=1, tokens_per_minute=1_000))
    assert found.fits(5_000)
    assert not rest(live(most=1, tokens_per_minute=1_000, tokens=1)).fits(5_000)


def test_the_latest_refusal_is_seen_with_its_age() -> None:
    holders = [live(throttled_s=2.0, age_s=0.5), live(holder="w1", throttled_s=30.0), live(holder="w2")]
    assert Sight.of(holders, HERE, lane="live", members=3).refused_s == 2.5


def test_deployments_are_told_by_where_they_call_whatever_they_are_named() -> None:
    same = Deployment(name="other", base_url="http://main/v1/", model="m")
    assert endpoint_of(same) == HERE
    assert endpoint_of(Deployment(name="main", base_url="http://main/v1", model="m2")) != HERE
    assert endpoint_of(Deployment(name="main", base_url="http://main/v1", model="m", account="x")) != HERE


def test_what_another_release_tells_is_read() -> None:
    told = Told.from_json({"name": "main", "limit": 3, "unheard_of": 1})
    assert (told.limit, told.most) == (3, 0)
    assert Told.from_json(told.as_json()) == told
