"""What holds a replay back, and what it sees of the past."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from schemas.errors import ConfigurationError, DependencyDownError
from schemas.records import Control, Meta
from streams.replay.calls import Limits
from streams.replay.control import RecordedControl, at_moment
from streams.replay.limits import Pace, Purse, Yielding
from tests.support.polling import turns, until

META = Meta(event_id="c", request_id="", tenant="", lane="live")


async def test_a_call_is_begun_only_if_its_worst_case_fits() -> None:
    purse = Purse(Decimal(10), Decimal(3))
    assert await purse.open("a", Decimal(4))
    waiting = asyncio.ensure_future(purse.open("b", Decimal(4)))
    await asyncio.sleep(0)
    assert not waiting.done(), "3 spent, 4 open: another 4 might pass the limit"
    purse.settle("a", Decimal(1))
    assert await waiting
    purse.settle("b", Decimal(2))
    assert not await purse.open("c", Decimal(5)), "6 spent and nothing open: nothing will make room"
    assert purse.spent == 6


async def test_without_a_limit_nothing_is_held_up() -> None:
    assert await Purse(None, Decimal(0)).open("a", Decimal(10**6))


async def test_events_begin_at_most_so_often() -> None:
    loop, pace = asyncio.get_running_loop(), Pace(50)
    began = loop.time()
    for _ in range(6):
        await pace.wait()
    assert loop.time() - began >= 0.099


async def test_calls_wait_while_live_requests_do_and_while_nobody_can_say() -> None:
    waiting = 100

    def ask() -> int:
        if waiting < 0:
            raise DependencyDownError("kafka", "told to be down")
        return waiting

    yielding = Yielding(ask, least=10, interval_s=0.01, patience_s=0.2)
    assert not yielding.free, "nobody has said so"
    assert not yielding.queued
    watching = asyncio.ensure_future(yielding.run())
    await until(lambda: yielding.queued, "it waits")
    assert not yielding.free
    held = asyncio.ensure_future(yielding.wait())
    await asyncio.sleep(0)
    assert not held.done()
    waiting = 10
    await asyncio.wait_for(held, 20)
    assert not yielding.queued
    waiting = -1
    await until(lambda: not yielding.free, "it waits again")
    await until(watching.done, "it gives up")
    assert isinstance(watching.exception(), DependencyDownError)
    assert not yielding.free


async def test_what_no_waiting_mends_is_said_at_once() -> None:
    def ask() -> int:
        raise ConfigurationError("not allowed")

    with pytest.raises(ConfigurationError):
        await asyncio.wait_for(Yielding(ask, least=10).run(), 20)


async def test_stages_without_calls_give_way_too() -> None:
    yielding = Yielding(lambda: 0, least=10, interval_s=0.01)
    limits = Limits(Pace(None), Purse(None, Decimal(0)), yielding, None)
    incoming: Any = None
    began = asyncio.ensure_future(limits.begin(incoming))
    await turns()
    assert not began.done()
    watching = asyncio.ensure_future(yielding.run())
    assert await asyncio.wait_for(began, 20)
    watching.cancel()


def test_a_prompt_is_the_one_that_was_live_at_the_event_s_moment() -> None:
    control = RecordedControl()
    for offset, version in ((3, "1"), (7, "2")):
        control.apply(Control(meta=META, kind="prompt", name="support", version=version), offset)
    control.apply(Control(meta=META, kind="prompt", name="support", version="2", removed=True), 9)
    control.apply(Control(meta=META, kind="pause", name="tenant/acme"), 8)
    found = []
    for moment in (-1, 2, 3, 6, 7, 8, 9):
        with at_moment(moment):
            found.append(control.current_prompt("support"))
            assert control.offset == moment
            assert not control.paused("tenant", "acme")
    assert found == [None, None, "1", "1", "2", "2", None]
