"""Slots go by weight where inputs compete, and to whoever asks where none does."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from streams.gate import Released
from streams.slots import WeightedSlots

SHARES = {"high": 8, "normal": 3, "low": 1}


async def test_an_input_alone_takes_every_slot() -> None:
    slots = WeightedSlots(4, SHARES)
    held = [slots.slot("low") for _ in range(4)]
    async with asyncio.timeout(1):
        for slot in held:
            await slot.__aenter__()
    for slot in held:
        await slot.__aexit__(None, None, None)


async def test_competing_inputs_are_served_by_their_shares() -> None:
    slots = WeightedSlots(1, SHARES)
    served: list[str] = []

    async def work(name: str) -> None:
        async with slots.slot(name):
            served.append(name)

    async with slots.slot("low"):
        tasks = [asyncio.ensure_future(work(name)) for name in SHARES for _ in range(60)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    counts = Counter(served[:60])
    # The slot that "low" held before the others came counts as one of its own.
    assert (counts["high"], counts["normal"], counts["low"]) == (40, 16, 4)


async def test_no_more_than_the_slots_are_held_at_once() -> None:
    slots, running, most = WeightedSlots(3, SHARES), 0, 0

    async def work(name: str) -> None:
        nonlocal running, most
        async with slots.slot(name):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(work(name) for name in SHARES for _ in range(20)))
    assert most == 3


async def test_a_cancelled_waiter_leaves_its_slot_to_the_next() -> None:
    slots = WeightedSlots(1, SHARES)
    async with slots.slot("high"):
        waiter = asyncio.ensure_future(slots.slot("high").__aenter__())
        await asyncio.sleep(0)
        waiter.cancel()
    async with asyncio.timeout(1), slots.slot("low"):
        pass


async def test_a_release_lets_waiters_go() -> None:
    slots = WeightedSlots(1, SHARES)
    async with slots.slot("high"):
        waiter = asyncio.ensure_future(slots.slot("low").__aenter__())
        await asyncio.sleep(0)
        slots.release()
        with pytest.raises(Released):
            await waiter


async def test_the_low_priority_is_served_however_many_others_keep_coming() -> None:
    slots = WeightedSlots(2, SHARES)
    served: Counter[str] = Counter()

    async def keep_coming(name: str) -> None:
        # Many actors of an input wait at any moment: a flood never pauses.
        while sum(served.values()) < 1200:
            async with slots.slot(name):
                served[name] += 1
                await asyncio.sleep(0)

    await asyncio.gather(*(keep_coming(name) for name in ("high", "normal") for _ in range(20)), keep_coming("low"))
    total = sum(served.values())
    # One actor alone asks again only when it was served, so it may miss a turn, and never more than that.
    assert served["low"] >= total / 12 / 2
    assert served["high"] > 2 * served["normal"] > served["low"]
