"""What a mirror may spend in a day, whatever becomes of its process."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest

from processors.clock import FakeClock
from schemas.errors import DependencyDownError, FencedError
from streams.mirroring import allowance as module
from streams.mirroring.allowance import Allowance
from streams.mirroring.days import FakeDays, Room
from streams.replay.limits import PassedOverError
from tests.support.polling import until

MIDNIGHT = datetime(2026, 1, 2, tzinfo=UTC)


class Scene:
    def __init__(self, limit: int = 10) -> None:
        self.days = FakeDays(Decimal(limit))
        self.clock = FakeClock(MIDNIGHT - timedelta(hours=1))
        self.allowance = Allowance(self.days, self.clock)

    def tomorrow(self) -> None:
        self.days.day, self.clock.current = date(2026, 1, 2), MIDNIGHT

    def restart(self) -> None:
        """A process that was killed leaves what is in the store."""
        self.allowance = Allowance(self.days, self.clock)

    async def done(self, event_id: str, cost: int) -> None:
        self.allowance.settle(event_id, Decimal(cost))
        await self.allowance.settled()


async def test_what_has_no_room_is_passed_over_until_the_next_day() -> None:
    scene = Scene()
    assert await scene.allowance.open("a", Decimal(8))
    await scene.done("a", 6)
    with pytest.raises(PassedOverError):
        await scene.allowance.open("b", Decimal(5))
    # Known without the store, before anything is waited for; what is smaller may fit.
    with pytest.raises(PassedOverError):
        scene.allowance.look(Decimal(5))
    scene.allowance.look(Decimal(4))
    assert await scene.allowance.open("c", Decimal(4))
    await scene.done("c", 1)
    scene.tomorrow()
    scene.allowance.look(Decimal(5))
    assert await scene.allowance.open("d", Decimal(5))
    await scene.done("d", 5)
    assert {str(day): one.spent_usd for day, one in scene.days.days.items()} == {"2026-01-01": 7, "2026-01-02": 5}
    assert sum(one.held_usd for one in scene.days.days.values()) == 0


async def test_an_event_waits_for_open_ones_that_may_make_room() -> None:
    scene = Scene()
    assert await scene.allowance.open("a", Decimal(8))
    waiting = asyncio.ensure_future(scene.allowance.open("b", Decimal(8)))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await scene.done("a", 2)
    assert await asyncio.wait_for(waiting, 20)


async def test_what_was_open_at_a_kill_still_counts_and_goes_on_with_its_own_room() -> None:
    scene = Scene()
    assert await scene.allowance.open("a", Decimal(8))
    scene.restart()
    with pytest.raises(PassedOverError):
        await scene.allowance.open("b", Decimal(3))
    assert await scene.allowance.open("a", Decimal(8))
    await scene.done("a", 8)
    # Killed before it was noted that it is done: it is done once more, and costs nothing more.
    scene.restart()
    assert await scene.allowance.open("a", Decimal(8))
    await scene.done("a", 8)
    assert (await scene.days.today()).spent_usd == 8


async def test_what_was_open_at_midnight_is_spent_on_the_day_on_which_it_is_finished_by_another_process() -> None:
    scene = Scene()
    assert await scene.allowance.open("a", Decimal(8))
    scene.restart()
    scene.tomorrow()
    assert await scene.allowance.open("a", Decimal(8))
    with pytest.raises(PassedOverError):
        Allowance(scene.days, scene.clock).look(Decimal(0))
        await Allowance(scene.days, scene.clock).open("b", Decimal(3))
    await scene.done("a", 7)
    assert (scene.days.days[date(2026, 1, 1)].spent_usd, (await scene.days.today()).spent_usd) == (0, 7)


async def test_what_is_free_needs_no_room_and_what_was_paid_after_all_is_booked() -> None:
    scene = Scene()
    assert await scene.allowance.open("a", Decimal(10))
    await scene.done("a", 10)
    scene.allowance.look(Decimal(0))
    assert await scene.allowance.open("free", Decimal(0))
    await scene.done("free", 0)
    assert scene.days.calls.keys() == {"a"}
    assert await scene.allowance.open("reused", Decimal(0))
    await scene.done("reused", 1)
    assert (await scene.days.today()).spent_usd == 11


async def test_a_process_that_lost_the_mirror_begins_nothing() -> None:
    scene = Scene()
    scene.days.fenced = True
    with pytest.raises(FencedError):
        await scene.allowance.open("a", Decimal(1))


class Away(FakeDays):
    """A store that is away for so many questions."""

    def __init__(self, away: int) -> None:
        super().__init__(Decimal(10))
        self.left = away

    async def hold(self, event_id: str, most_usd: Decimal) -> Room:
        self._ask()
        return await super().hold(event_id, most_usd)

    async def settle(self, event_id: str, cost_usd: Decimal) -> None:
        self._ask()
        await super().settle(event_id, cost_usd)

    def _ask(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise DependencyDownError("postgres", "told to be away")


async def test_a_store_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.001)
    days = Away(3)
    mine = Allowance(days, FakeClock())
    assert await mine.open("a", Decimal(4))
    days.left = 3
    mine.settle("a", Decimal(3))
    await mine.settled()
    assert (await days.today()).spent_usd == 3
    assert await mine.open("b", Decimal(4))
    days.left = 10_000
    mine.settle("b", Decimal(1))
    with pytest.raises(DependencyDownError):
        await mine.settled()
    await until(lambda: days.left < 10_000 - module.PATIENCE + 1, "it gave up")
