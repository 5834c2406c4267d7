"""What the lines of a worker's log say about an event, and what they leave out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from processors.release.calls import FakeCalls
from processors.release.policy import ReleasePolicy
from processors.release.stage import Release
from schemas.errors import OversizedError
from schemas.records import Delta
from streams.stages import STAGES
from streams.window_runner import WindowRunner
from tests.support.deltas import PROSE, lives, stream_of
from tests.support.running import CODEC, LANE, Bench, Event, Message, admit, message

TEXT = PROSE * 2
TRACE = "4bf92f3577b34da6a3ce929d0e0e47{:02x}"


def headers(request_id: str) -> list[tuple[str, bytes]]:
    """A trace of the request's own."""
    return [("traceparent", f"00-{trace(request_id)}-00f067aa0ba902b7-01".encode())]


def trace(request_id: str) -> str:
    return TRACE.format(ord(request_id[-1]))


class Releasing(Bench):
    def __init__(self, *, log_content: bool = False, **policy: float) -> None:
        super().__init__(admit)
        release = Release(policy=ReleasePolicy(**policy), calls=FakeCalls())  # type: ignore[arg-type]
        stage = STAGES["release"]
        services = replace(self.runner._services, log_content=log_content)
        self.window = WindowRunner(stage, stage.inputs[0], release, services)

    async def pass_on(self, deltas: Iterable[Delta]) -> None:
        for one in deltas:
            request_id = one.meta.request_id
            told = Message(CODEC.encode(one), request_id.encode(), f"{LANE}.deltas", headers=headers(request_id))
            await self.window.take(Event(told))

    async def end(self) -> None:
        while finishing := list(self.window._finishing):
            for task in finishing:
                await task


def logged(said: list[Any], start: str) -> Any:
    """The one line that starts so."""
    [line] = [line for line in said if line["event"].startswith(start)]
    return line


def about(request_id: str) -> dict[str, str]:
    named = {"request_id": request_id, "tenant": "acme", "stage": "release", "lane": LANE}
    return {**named, "trace_id": trace(request_id)}


async def test_a_dead_letter_of_release_names_its_request() -> None:
    scene = Releasing()
    with capture_logs([merge_contextvars]) as said:
        await scene.pass_on([replace(lives("r1", TEXT)[0], attempt=-3)])
    assert about("r1").items() <= logged(said, "dead letter").items()


async def test_a_dead_letter_of_bytes_that_are_no_delta_names_lane_and_trace() -> None:
    scene = Releasing()
    with capture_logs([merge_contextvars]) as said:
        await scene.window.take(Event(Message(b"nonsense", b"r1", f"{LANE}.deltas", headers=headers("r1"))))
    line = logged(said, "dead letter")
    assert (line["stage"], line["lane"], line["trace_id"]) == ("release", LANE, trace("r1"))


async def test_a_stream_that_is_ended_for_another_ones_sake_is_named_itself() -> None:
    scene = Releasing(most_streams=1)
    with capture_logs([merge_contextvars]) as said:
        await scene.pass_on([lives("r1", TEXT)[0], lives("r2", TEXT)[0]])
    assert about("r1").items() <= logged(said, "too many streams").items()


async def test_a_stream_that_stands_still_is_named() -> None:
    scene = Releasing(stall_s=0.0)
    await scene.pass_on(lives("r1", TEXT)[:2])
    with capture_logs([merge_contextvars]) as said:
        await scene.window.expire()
    assert about("r1").items() <= logged(said, "a stream stood still").items()


@pytest.mark.parametrize("whole", [True, False])
async def test_a_stream_whose_chunks_are_refused_for_good_is_named(whole: bool) -> None:
    scene = Releasing(most_streams=1)
    scene.producer.lost = 9
    scene.producer.failures = [OversizedError("too large")]
    with capture_logs([merge_contextvars]) as said:
        await scene.pass_on(stream_of("r1", TEXT) if whole else [*lives("r1", TEXT), lives("r2", TEXT)[0]])
        await scene.end()
    assert about("r1").items() <= logged(said, "dead letter").items()


@pytest.mark.parametrize("on", [True, False])
async def test_release_logs_texts_only_where_that_is_switched_on(on: bool) -> None:
    scene = Releasing(log_content=on)
    with capture_logs([merge_contextvars]) as said:
        await scene.pass_on(lives("r1", TEXT, every=len(TEXT)))
    assert ("quiet morning" in str(said)) is on
    assert not on or about("r1").items() <= logged(said, "event").items()


@pytest.mark.parametrize("on", [True, False])
async def test_a_stage_logs_texts_only_where_that_is_switched_on(on: bool) -> None:
    bench = Bench(admit)
    bench.runner._services = replace(bench.runner._services, log_content=on)
    with capture_logs([merge_contextvars]) as said:
        await bench.take(message())
    assert ("What?" in str(said)) is on
    assert not on or logged(said, "event")["request_id"] == "r1"
