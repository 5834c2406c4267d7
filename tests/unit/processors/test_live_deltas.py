"""How a text is cut into deltas."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from processors.complete.deltas import FakeDeltaSink
from processors.complete.live import LiveDeltas, Pace
from processors.failpoints import Unarmed
from schemas.records import Delta, Meta, Text
from tests.support.completing import Heard
from tests.support.polling import turns, until

META = Meta(event_id="e", request_id="r", tenant="t", lane="live")


def make(sequence: int, start: int, text: str, elapsed_ms: float) -> Delta:
    return Delta(meta=META, sequence=sequence, start_char=start, text=Text(inline=text), elapsed_ms=elapsed_ms)


class Bench:
    def __init__(self, **pace: Any) -> None:
        self.sink, self.heard = FakeDeltaSink(), Heard()
        self.live = LiveDeltas(
            self.sink,
            make,
            pace=Pace(**pace),
            deployment="d1",
            trusted=lambda: True,
            observer=self.heard,
            failpoints=Unarmed(),
            ends=time.monotonic() + 60,
        )

    def say(self, *pieces: str) -> None:
        for piece in pieces:
            self.live.hear(piece, time.monotonic())

    @property
    def texts(self) -> list[str]:
        return [delta.text.inline or "" for delta in self.sink.sent if delta.text is not None]


async def test_a_delta_is_cut_at_its_size_long_before_its_time() -> None:
    bench = Bench(interval_s=3600.0, characters=6)
    async with bench.live:
        bench.say("one ", "two ", "three ")
        await until(lambda: len(bench.texts) == 1, "a delta of six characters or more")
        assert bench.texts == ["one two three "]
        bench.say("four ")
        await turns()
        assert len(bench.texts) == 1


async def test_a_delta_is_cut_at_its_time_however_short_it_is() -> None:
    bench = Bench(interval_s=0.01, characters=10_000)
    async with bench.live:
        bench.say("a")
        await until(lambda: bench.texts == ["a"], "a delta after its time")


async def test_what_comes_while_a_delta_is_under_way_makes_the_next_one_longer() -> None:
    bench = Bench(interval_s=0.0, characters=1)
    hold = bench.sink.hold = asyncio.Event()
    async with bench.live:
        bench.say("a")
        await until(lambda: bench.live.given == "a", "the first is under way")
        bench.say("b", "c", "d" * 500)
        hold.set()
        await until(lambda: len(bench.texts) == 2, "the second")
    assert bench.texts == ["a", "bc" + "d" * 500]
    assert [(delta.sequence, delta.start_char) for delta in bench.sink.sent] == [(0, 0), (1, 1)]


async def test_memory_is_bounded_while_the_broker_is_slow() -> None:
    bench = Bench(interval_s=0.0, characters=1, most_held=100, settle_s=0.01)
    bench.sink.hold = asyncio.Event()
    async with bench.live:
        bench.say("a")
        await until(lambda: bench.live.given == "a", "the first is under way")
        bench.say(*["x" * 50] * 1000)
        assert bench.live.lost and bench.heard.deltas == ["lost"]
    assert bench.live.given == "a"


async def test_places_count_code_points() -> None:
    bench = Bench(interval_s=0.0, characters=1)
    async with bench.live:
        for number, piece in enumerate(("ä𝄞", "e\u0301", "z")):
            bench.say(piece)
            await until(lambda n=number: len(bench.texts) == n + 1, "a delta of its own")  # type: ignore[misc]
    assert [delta.start_char for delta in bench.sink.sent] == [0, 2, 4]


async def test_a_fault_of_the_sink_does_not_reach_the_call(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(interval_s=0.0, characters=1)
    bench.sink.failures = [RuntimeError("secret text")]
    async with bench.live:
        bench.say("a")
        await until(lambda: bench.live.lost, "no more is sent")
        bench.say("b")
    assert bench.texts == [] and "secret" not in caplog.text
