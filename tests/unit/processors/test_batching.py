"""What waits at the same time goes in one call, and each gets its own answer or the call's error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from processors.batching import Together
from tests.support.polling import until


async def test_what_comes_while_a_call_is_made_goes_in_the_next_one() -> None:
    calls: list[list[int]] = []
    go_on = asyncio.Event()

    async def double(asked: Sequence[int]) -> Sequence[int]:
        calls.append(list(asked))
        await go_on.wait()
        return [2 * one for one in asked]

    together = Together(double, largest=3)
    first = asyncio.ensure_future(together.ask(0))
    while not calls:
        await asyncio.sleep(0)
    rest = [asyncio.ensure_future(together.ask(number)) for number in range(1, 6)]
    gone = rest.pop()
    await asyncio.sleep(0)
    gone.cancel()
    go_on.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8]
    assert calls == [[0], [1, 2, 3], [4, 5]]


async def test_an_error_is_everybodys_and_the_next_call_is_made_all_the_same() -> None:
    async def fail(asked: Sequence[int]) -> Sequence[int]:
        if 0 in asked:
            raise ValueError("no")
        return asked

    together = Together(fail)
    outcomes = await asyncio.gather(together.ask(0), together.ask(1), return_exceptions=True)
    assert [type(one) for one in outcomes] == [ValueError, ValueError]
    assert await together.ask(2) == 2


async def test_what_nobody_waits_for_is_left_out_or_undone() -> None:
    calls: list[list[int]] = []
    undone: list[tuple[int, int]] = []
    go_on = asyncio.Event()

    async def double(asked: Sequence[int]) -> Sequence[int]:
        calls.append(list(asked))
        await go_on.wait()
        return [2 * one for one in asked]

    async def undo(asked: int, answer: int) -> None:
        undone.append((asked, answer))

    together = Together(double, unheard=undo)
    first = asyncio.ensure_future(together.ask(1))
    while not calls:
        await asyncio.sleep(0)
    second, third = (asyncio.ensure_future(together.ask(number)) for number in (2, 3))
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    go_on.set()
    assert await third == 6
    assert (calls, undone) == ([[1], [3]], [(1, 2)])


async def test_an_answer_is_undone_whose_asker_goes_away_before_it_takes_it() -> None:
    undone: list[tuple[int, int]] = []
    undoing, go_on = asyncio.Event(), asyncio.Event()

    async def double(asked: Sequence[int]) -> Sequence[int]:
        # Its turn comes once the answer is there, and before the asker's own.
        asyncio.get_running_loop().call_soon(asker.cancel)
        return [2 * one for one in asked]

    async def undo(asked: int, answer: int) -> None:
        undoing.set()
        await go_on.wait()
        undone.append((asked, answer))

    together = Together(double, unheard=undo)
    asker = asyncio.ensure_future(together.ask(1))
    await undoing.wait()
    # Cancelled once more, it doesn't break off the undoing.
    asker.cancel()
    outcome = await asyncio.gather(asker, return_exceptions=True)
    assert isinstance(outcome[0], asyncio.CancelledError)
    go_on.set()
    await until(lambda: undone == [(1, 2)], "the answer undone")


async def test_an_answer_that_is_an_error_is_its_asker_s_alone_and_nothing_to_undo() -> None:
    undone: list[int] = []
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def double(asked: Sequence[int]) -> Sequence[int | Exception]:
        begun.set()
        await go_on.wait()
        return [ValueError("no") if one < 0 else 2 * one for one in asked]

    async def undo(asked: int, _answer: int) -> None:
        undone.append(asked)

    together = Together(double, unheard=undo)
    gone = asyncio.ensure_future(together.ask(-1))
    await begun.wait()
    asked = asyncio.gather(together.ask(-2), together.ask(3), return_exceptions=True)
    await asyncio.sleep(0)
    gone.cancel()
    go_on.set()
    refused, answer = await asked
    assert isinstance(refused, ValueError) and answer == 6
    assert undone == []
