"""Live workers tell what they use, replays follow it: with the shipped pool and store, and a clock of the test's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from processors.complete.routes import Deployment, Group
from processors.routing import Ask, Pool, Seat
from processors.routing.causes import Ended
from schemas.errors import DependencyDownError
from streams.capacity.following import Following
from streams.capacity.rest import GONE_S
from streams.capacity.spare import FIRST, HOLD_S, Leftover
from streams.capacity.store import FakeUses
from streams.capacity.telling import INTERVAL_S, PEAK_S, Figures, Telling, tighter
from streams.capacity.told import Holder, Told, endpoint_of
from streams.capacity.window import WINDOW_S, Highest, Minute, Need
from tests.support.polling import until

MAIN = Deployment(name="main", base_url="http://main/v1", model="m", max_concurrency=16)
HERE = endpoint_of(MAIN)
THROTTLED = Ended("throttled", code="http_429")


class Scene:
    """A live worker and a replay of the same deployment, in processes of their own but for the clock."""

    def __init__(self, *, live: bool = True) -> None:
        self.time = 1000.0
        self.uses = FakeUses(clock=self.clock)
        self.live = Pool([MAIN], random_=random.Random(1), clock=self.clock)
        self.telling = Telling(Figures(self.live.uses, [MAIN]), self.uses, holder="w0", lane="live", clock=self.clock)
        self.left, self.following, self.replay = self.another("r1")
        self.left.members = int(live)
        self.ask = Ask(group=Group(deployments=(MAIN,)))

    def another(self, run: str) -> tuple[Leftover, Following, Pool]:
        left = Leftover([MAIN], lane="live", clock=self.clock)
        left.members = 1
        following = Following(self.uses, holder=run, lane=run, left=left)
        return left, following, Pool([MAIN], random_=random.Random(1), clock=self.clock, spare=left)

    def clock(self) -> float:
        return self.time

    async def looked(self, times: int = 1, *, step_s: float = 0.5) -> None:
        """Both look, so often, at the pace that they have."""
        for _ in range(times):
            self.time += step_s
            await self.telling.look()
            await self.following.look()

    def fill(self, pool: Pool, most: int = 100) -> list[Seat]:
        """As many calls as the pool gives places for."""
        seats: list[Seat] = []
        while len(seats) < most and (seat := pool.at_once(self.ask)) is not None:
            seats.append(seat)
        return seats

    def end(self, pool: Pool, seats: list[Seat], ended: Ended | None = None) -> None:
        while seats:
            pool.leave(seats.pop(), ended or Ended("answered"))


async def test_nothing_is_taken_before_it_is_known_what_live_uses() -> None:
    scene = Scene()
    assert scene.fill(scene.replay) == []
    scene.left.members = None
    await scene.looked()
    assert scene.fill(scene.replay) == [], "it is not known how many workers there are"
    assert "not known yet" in scene.left.said


async def test_a_replay_begins_with_a_few_and_comes_to_all_that_live_leaves() -> None:
    scene = Scene()
    live = scene.fill(scene.live, 6)
    await scene.looked()
    seats = scene.fill(scene.replay)
    assert len(seats) == FIRST
    for _ in range(10):
        await scene.looked()
        seats += scene.fill(scene.replay)
    # 16 places less 6 that live uses and 2 kept free.
    assert len(seats) == 8
    scene.end(scene.live, live)
    await scene.looked(4)
    assert scene.fill(scene.replay) == [], "live used 6 a moment ago"
    await scene.looked(int(PEAK_S / 10), step_s=10.0)
    await scene.looked(int(WINDOW_S / 10) + 1, step_s=10.0)
    for _ in range(10):
        seats += scene.fill(scene.replay)
        await scene.looked()
    assert len(seats) == 14


async def test_live_and_replay_together_never_pass_the_limit_while_live_stays_within_its_reserve() -> None:
    scene, draw = Scene(), random.Random(7)
    live, replay = scene.fill(scene.live, 9), list[Seat]()
    await scene.looked()
    busiest = 0
    for _ in range(2_000):
        scene.end(scene.live, [live.pop(draw.randrange(len(live))) for _ in range(draw.randint(0, len(live)))])
        scene.end(scene.replay, [replay.pop() for _ in range(draw.randint(0, len(replay)))])
        # Up to two more than it ever had before, at a moment at which nobody looked.
        wanted = draw.randint(0, 11) - len(live)
        begun = scene.fill(scene.live, max(0, wanted))
        assert len(begun) == max(0, wanted), "live gets what it wants, at once"
        live += begun
        replay += scene.fill(scene.replay)
        assert len(live) + len(replay) <= MAIN.max_concurrency
        busiest = max(busiest, len(replay))
        if draw.random() < 0.5:
            await scene.looked(step_s=draw.uniform(0.1, 1.0))
    assert busiest >= 3


async def test_a_live_request_that_waits_is_told_at_once_and_nothing_is_begun_until_it_is_served() -> None:
    scene = Scene()
    await scene.looked(2)
    assert scene.left.places("main") == FIRST
    # Its provider is slower than ever: all places are taken, and one more is wanted.
    live = scene.fill(scene.live)
    waiting = asyncio.ensure_future(scene.live.take(scene.ask))
    await asyncio.sleep(0)
    scene.time += 0.1
    assert await scene.telling.look(), "before its second is over"
    await scene.following.look()
    assert (scene.left.places("main"), scene.left.said) == (0, "main: live requests wait for a place (1)")
    scene.live.leave(live.pop(), Ended("answered"))
    live.append(await waiting)  # type: ignore[arg-type]
    await scene.looked(3)
    assert scene.left.places("main") == 0
    assert "live used 16 of 16 places within the last minutes" in scene.left.said


async def test_a_refusal_of_live_s_stops_a_replay_which_comes_back_with_half() -> None:
    scene = Scene()
    seats: list[Seat] = []
    for _ in range(6):
        await scene.looked()
        seats += scene.fill(scene.replay)
    assert len(seats) > FIRST
    had = len(seats)
    scene.live.leave(scene.fill(scene.live, 1)[0], THROTTLED)
    scene.time += 0.1
    assert await scene.telling.look(), "at once"
    await scene.following.look()
    scene.end(scene.replay, seats)
    assert scene.fill(scene.replay) == []
    assert "its provider refuses calls" in scene.left.said
    await scene.looked(int(HOLD_S) - 1, step_s=1.0)
    assert scene.fill(scene.replay) == []
    await scene.looked(2, step_s=1.0)
    assert 0 < len(scene.fill(scene.replay)) <= had / 2 + 1


async def test_a_refusal_of_its_own_stops_it_before_the_next_look() -> None:
    scene = Scene()
    await scene.looked()
    seats = scene.fill(scene.replay)
    scene.replay.leave(seats.pop(), THROTTLED)
    scene.end(scene.replay, seats)
    assert scene.fill(scene.replay) == []


async def test_a_refusal_of_one_replay_stops_the_others_too_and_is_not_told_back() -> None:
    scene = Scene()
    await scene.looked()
    other, following, _ = scene.another("r2")
    await following.look()
    assert other.places("main") > 0
    scene.replay.leave(scene.fill(scene.replay, 1)[0], THROTTLED)
    for _ in range(int(HOLD_S) - 1):
        await scene.looked(step_s=1.0)
        await following.look()
        assert other.places("main") == scene.left.places("main") == 0
    for _ in range(2):
        await scene.looked(step_s=1.0)
        await following.look()
    assert other.places("main") > 0
    assert scene.left.places("main") > 0


async def test_a_worker_that_died_holds_a_replay_up_for_a_while_and_not_for_ever() -> None:
    scene = Scene()
    scene.fill(scene.live, 3)
    await scene.looked(2)
    assert scene.left.places("main") > 0
    # Nothing more is heard of it: it may be calling.
    for _ in range(4):
        scene.time += 1.0
        await scene.following.look()
    assert (scene.left.places("main"), "not been heard of" in scene.left.said) == (0, True)
    scene.time += GONE_S
    await scene.following.look()
    assert scene.left.places("main") == 1, "its group has it still, and nobody tells for it"
    scene.left.members = 0
    await scene.following.look()
    assert scene.left.places("main") == FIRST


async def test_two_replays_take_no_more_together_than_live_leaves() -> None:
    scene = Scene()
    scene.fill(scene.live, 4)
    await scene.looked()
    other, following, pool = scene.another("r2")
    seats: list[Seat] = []
    for _ in range(12):
        await scene.looked()
        await following.look()
        seats += scene.fill(scene.replay) + scene.fill(pool)
    assert len(seats) == 10
    assert other.places("main") == 5


async def test_while_the_store_is_away_nothing_is_taken_and_for_too_long_ends_the_step() -> None:
    scene = Scene()
    await scene.looked()
    assert scene.left.places("main") == FIRST
    scene.uses.down = DependencyDownError("postgres", "told to be down")
    following = Following(scene.uses, holder="r1", lane="r1", left=scene.left, interval_s=0.005, patience_s=0.2)
    task = asyncio.ensure_future(following.run())
    await until(lambda: scene.left.places("main") == 0, "nothing is taken")
    assert "can't be read" in scene.left.said
    await until(task.done, "it gives up")
    assert isinstance(task.exception(), DependencyDownError)


async def test_what_a_run_waits_for_is_told_and_taken_away_with_it() -> None:
    uses = FakeUses()
    following = Following(uses, holder="r1", lane="r1", waits=lambda: "live events wait", interval_s=0.005)
    task = asyncio.ensure_future(following.run())
    await until(lambda: "r1" in uses.rows, "it is told")
    told = await uses.of("r1")
    assert told is not None
    assert (told.said, told.kind, dict(told.uses)) == ("live events wait", "replay", {})
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await uses.of("r1") is None


async def test_calls_are_prepared_a_little_ahead_of_their_places() -> None:
    scene = Scene()
    preparing = asyncio.ensure_future(scene.left.room(["main"]))
    await asyncio.sleep(0)
    assert not preparing.done()
    await scene.looked()
    await asyncio.wait_for(preparing, 20)
    for _ in range(2 * FIRST):
        await asyncio.wait_for(scene.left.room(["main"]), 20)
        scene.left.prepare()
    held = asyncio.ensure_future(scene.left.room(["main"]))
    await asyncio.sleep(0)
    assert not held.done()
    scene.left.done()
    await asyncio.wait_for(held, 20)


async def test_two_names_of_one_endpoint_share_what_is_left_of_it() -> None:
    scene = Scene()
    again = Deployment(name="again", base_url="http://main/v1", model="m", max_concurrency=16)
    left = Leftover([MAIN, again], lane="live", clock=scene.clock)
    left.members = 0
    pool = Pool([MAIN, again], random_=random.Random(1), clock=scene.clock, spare=left)
    await Following(scene.uses, holder="r9", lane="r9", left=left).look()
    ask, seats = Ask(group=Group(deployments=(MAIN, again))), list[Seat]()
    while (seat := pool.at_once(ask)) is not None:
        seats.append(seat)
    assert len(seats) == FIRST
    figures = Figures(pool.uses, [MAIN, again]).now(scene.time)
    assert (figures[HERE].in_flight, figures[HERE].limit) == (FIRST, 32)


async def test_a_worker_tells_every_second_and_takes_its_row_away() -> None:
    scene = Scene()
    assert await scene.telling.look()
    scene.time += INTERVAL_S / 2
    assert not await scene.telling.look(), "nothing is tighter"
    scene.time += INTERVAL_S / 2
    assert await scene.telling.look()
    # The same by itself.
    telling = Telling(Figures(scene.live.uses, [MAIN]), scene.uses, holder="w1", lane="live", look_s=0.001)
    telling.start()
    await until(lambda: "w1" in scene.uses.rows, "it tells")
    await telling.stop()
    assert "w1" not in scene.uses.rows


async def test_what_can_t_be_told_is_counted_and_told_later() -> None:
    scene, failed = Scene(), list[int]()
    scene.uses.down = DependencyDownError("postgres", "told to be down")
    telling = Telling(
        Figures(scene.live.uses, [MAIN]),
        scene.uses,
        holder="w1",
        lane="live",
        look_s=0.001,
        failed=lambda: failed.append(1),
    )
    telling.start()
    await until(lambda: bool(failed), "it fails")
    scene.uses.down = None
    await until(lambda: "w1" in scene.uses.rows, "it tells")
    scene.uses.down = DependencyDownError("postgres", "told to be down")
    await telling.stop()


def test_what_got_tighter_is_told_before_its_time() -> None:
    def told(**changes: float | None) -> Mapping[str, Told]:
        return {HERE: Told(name="main", **{"most": 4, "limit": 16, **changes})}  # type: ignore[arg-type]

    assert tighter({}, told())
    assert not tighter(told(), told(most=3, in_flight=1))
    assert tighter(told(), told(most=5))
    assert tighter(told(), told(limit=11))
    assert tighter(told(), told(waiting=1))
    assert tighter(told(), told(throttled_s=0.1))
    assert not tighter(told(throttled_s=1.0), told(throttled_s=2.0))
    assert tighter(told(throttled_s=9.0), told(throttled_s=0.2))


def test_the_last_minute_is_forgotten_second_by_second() -> None:
    minute, highest = Minute(), Highest(WINDOW_S)
    for second in range(120):
        minute.add(2, float(second))
        highest.add(120 - second, float(second))
    assert minute.total(119.0) == 122
    assert highest.top(119.0) == 61
    need = Need(300.0)
    for second in range(60):
        need.add(1, float(second))
    # As much as its busiest minute, though it is quiet by now; or as much as it would be at the rate of now.
    assert need.total(250.0) == 60
    need.add(20, 250.0)
    assert need.total(250.0) == 120
    minute.add(-200, 119.5)
    assert minute.total(119.5) == 0
    assert minute.total(500.0) == 0
    assert highest.top(500.0) == 0


async def test_a_row_keeps_its_age() -> None:
    scene = Scene()
    await scene.uses.tell("w0", "live", "live", {})
    scene.time += 4.0
    seen: list[Holder] = []
    await scene.uses.claim("r1", "r1", lambda holders: (seen.extend(holders), ({}, ""))[1])
    assert [(one.holder, one.age_s) for one in seen] == [("w0", 4.0)]


async def test_of_limits_a_minute_live_gets_all_that_it_wants_and_replays_the_rest() -> None:
    """60 a minute for both: live takes 30, and a tenth is kept free."""
    uses, time = FakeUses(clock=lambda: 0.0), [1000.0]
    main = Deployment(name="main", base_url="http://main/v1", model="m", requests_per_minute=60)
    live = Pool([main], random_=random.Random(1), clock=lambda: time[0])
    telling = Telling(Figures(live.uses, [main]), uses, holder="w0", lane="live", clock=lambda: time[0])
    left = Leftover([main], lane="live", clock=lambda: time[0])
    left.members = 1
    replay = Pool([main], random_=random.Random(1), clock=lambda: time[0], spare=left)
    following, ask = Following(uses, holder="r1", lane="r1", left=left), Ask(group=Group(deployments=(main,)))
    began: dict[str, list[float]] = {"live": [], "replay": []}
    for second in range(180):
        time[0] += 1.0
        await telling.look()
        if second >= 60:
            await following.look()
        for name, pool, most in (("live", live, second % 2), ("replay", replay, 3)):
            for seat in (seat for _ in range(most) if (seat := pool.at_once(ask)) is not None):
                began[name].append(time[0])
                pool.leave(seat, Ended("answered"))
    assert len(began["live"]) == 90, "nothing of live's had to wait"
    for end in range(1061, 1181):
        within = {name: sum(end - 60 < at <= end for at in times) for name, times in began.items()}
        assert sum(within.values()) <= 54
        assert end < 1121 or within["replay"] >= 15
    assert "of this minute are used" in left.said
