"""The book of embeddings in Postgres follows the rules of the one in memory, under workers that write together."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace

import psycopg
import pytest

from processors.clock import FakeClock
from processors.postgres import Database
from processors.spending.port import Bought, Closing, Keeping, Kept, MemorySpends, Opened, Opening, Spends, Untold
from processors.spending.postgres import PostgresSpends
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack


def opening(spender: str, lane: str, *, asked: bytes = b"d", due_s: float = 600.0) -> Opening:
    def event(number: int) -> bytes:
        return f"{spender} {number} bound".encode()

    return Opening(spender=spender, lane=lane, tenant="acme", asked=asked, owed=asked, event=event, due_s=due_s)


def closing(spender: str, ordinal: int, *, event: bool = True, vectors: bytes | None = b"v") -> Closing:
    told = f"{spender} {ordinal} done".encode() if event else None
    return Closing(spender=spender, ordinal=ordinal, event=told, vectors=vectors)


async def story(spends: Spends, lane: str, names: list[str]) -> list[object]:
    """Everything that the book says on the way of a few attempts; ``names`` are in order."""
    first, second, third = names
    said: list[object] = [
        await spends.open([opening(first, lane), opening(second, lane)]),
        await spends.open([opening(second, lane), opening(third, lane)]),
        await spends.take(lane, limit=10, hold_s=600),
    ]
    await spends.close([closing(second, 1), closing(first, 0), closing(third, 0, event=False)])
    taken = sorted(await spends.take(lane, limit=10, hold_s=600), key=lambda one: one.spender)
    said += [
        taken,
        await spends.open([opening(second, lane), opening(first, lane, asked=b"other"), opening(third, lane)]),
        await spends.take(lane, limit=10, hold_s=600),
    ]
    await spends.told(taken)
    await spends.open([opening(third, lane, due_s=0.0)])
    lost = list(await spends.take(lane, limit=10, hold_s=600))
    await spends.close([closing(third, 1)])
    return [*said, lost, await spends.open([opening(third, lane)])]


async def test_the_table_follows_the_rule(database: Database, lane: str) -> None:
    names = sorted(str(uuid.uuid4()) for _ in range(3))
    told = await story(PostgresSpends(database), lane, names)
    assert told == await story(MemorySpends(FakeClock()), lane, names)
    first, second, third = names
    assert told[0] == [Opened(0), Opened(0)] and told[1] == [Opened(1), Opened(0)]
    assert told[3] == [
        Untold(spender=first, ordinal=0, event=f"{first} 0 done".encode()),
        Untold(spender=second, ordinal=1, event=f"{second} 1 done".encode()),
    ]
    kept = Kept(b"d", b"v")
    assert told[4] == [Bought((kept,)), Opened(1, (kept,)), Opened(0)]
    assert told[6] == [Untold(spender=third, ordinal=1, event=f"{third} 1 bound".encode())]
    assert told[7] == [Bought((kept,))], "what came too late to be told is not bought again"


async def sharing(spends: Spends, lane: str, names: list[str]) -> list[object]:
    """What the book says to askers who were given a vector that another one paid for."""
    first, second = names
    shared, own = (bytes([number]) * 32 for number in (1, 2))
    keepings = [
        Keeping(spender=one, lane=lane, tenant="acme", kept=Kept(shared, b"s" * 8)) for one in (second, first, first)
    ]
    for _ in range(2):
        await spends.keep(keepings[:2])
        await spends.keep(keepings[2:])
    both = replace(opening(second, lane, asked=shared + own), owed=own)
    return [
        await spends.open([opening(first, lane, asked=shared), both]),
        await spends.take(lane, limit=10, hold_s=600),
        await spends.open([replace(both, owed=shared)]),
    ]


async def test_what_another_paid_for_is_kept_once_and_tells_nothing(database: Database, lane: str) -> None:
    names = sorted(str(uuid.uuid4()) for _ in range(2))
    told = await sharing(PostgresSpends(database), lane, names)
    assert told == await sharing(MemorySpends(FakeClock()), lane, names)
    kept = (Kept(bytes([1]) * 32, b"s" * 8),)
    assert told == [[Bought(kept), Opened(1, kept)], [], [Bought(kept)]]


async def test_workers_at_the_same_event_book_an_attempt_each(database: Database, lane: str) -> None:
    names = [str(uuid.uuid4()) for _ in range(20)]
    workers = [PostgresSpends(database) for _ in range(6)]
    opened = await asyncio.gather(*(one.open([opening(name, lane) for name in names]) for one in workers))
    for numbers in zip(*opened, strict=True):
        assert sorted(one.ordinal for one in numbers if isinstance(one, Opened)) == list(range(6))


async def test_an_event_is_told_by_one_worker_and_its_bytes_go_with_that(
    stack: TestStack, database: Database, lane: str
) -> None:
    spends = PostgresSpends(database)
    names = [str(uuid.uuid4()) for _ in range(50)]
    await spends.open([opening(name, lane) for name in names])
    await spends.close([closing(name, 0) for name in names])
    taken = await asyncio.gather(*(spends.take(lane, limit=20, hold_s=600) for _ in range(5)))
    spenders = [one.spender for part in taken for one in part]
    assert sorted(spenders) == sorted(names)
    await spends.told([one for part in taken for one in part])
    with psycopg.connect(stack.postgres_dsn) as connection:
        query = "SELECT count(*) FROM spends WHERE lane = %s AND event IS NULL AND told_at IS NOT NULL"
        assert connection.execute(query, (lane,)).fetchone() == (50,)
