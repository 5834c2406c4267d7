"""When records are fetched next: at once, or after some more have gathered."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from streams.in_loop import InLoopDelivery
from streams.stages import STAGES

FOR_EVER_S = 600.0
MOST = 4


async def next_fetch(handed: int, *, gather_s: float) -> None:
    app = SimpleNamespace(gather_s=gather_s, conf=SimpleNamespace(broker_max_poll_records=MOST))
    delivery = SimpleNamespace(app=app, loop=asyncio.get_running_loop())
    await InLoopDelivery._until_next_fetch(delivery, handed)  # type: ignore[arg-type]


@pytest.mark.parametrize("handed", [0, MOST])
async def test_nothing_gathers_behind_a_backlog_or_where_nothing_came(handed: int) -> None:
    async with asyncio.timeout(30):
        await next_fetch(handed, gather_s=FOR_EVER_S)


async def test_records_gather_where_nobody_waits_for_them() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await next_fetch(1, gather_s=FOR_EVER_S)


async def test_a_record_that_somebody_waits_for_is_fetched_at_once() -> None:
    async with asyncio.timeout(30):
        await next_fetch(1, gather_s=0.0)


def test_no_stage_on_the_way_to_an_answer_lets_events_gather() -> None:
    assert {name for name, stage in STAGES.items() if stage.gather_s} == {"account", "evaluate"}
