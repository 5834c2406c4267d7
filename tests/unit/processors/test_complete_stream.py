"""Streaming in the complete stage, on the shipped fakes: what goes to deltas, and what closes a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from processors.complete.deltas import ABORTED, CLOSING
from processors.complete.live import Pace
from processors.complete.streaming import buffered
from processors.event import Recorded
from processors.model.port import echo
from schemas.errors import (
    DependencyDownError,
    IndeterminateError,
    OutcomeUnknownError,
    PermanentProviderError,
    TransientProviderError,
)
from schemas.records import Answer, Completion, Cost, Delta, ResponseFormat, Text
from tests.support.completing import CODEC, KEY, Bench, as_bytes, event, streaming
from tests.support.polling import until

LONG = "The lamp is lit and the kettle sings its song by the door, and so it goes on and on. "
# No place in it may be public before it has ended.
HELD = "Thelampislit"
CUT_OFF = OutcomeUnknownError("cut_off", "cut off")


def text_of(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text.inline or "" for delta in deltas if delta.text is not None)


async def broken(bench: Bench, said: str, error: Exception = CUT_OFF) -> asyncio.Task[Any]:
    """A worker whose first attempt says something, and breaks off with ``error`` once that is on its way."""
    hold = bench.model.hold = asyncio.Event()
    bench.fail_with(error)
    bench.model.pieces = [[said]]
    task = asyncio.create_task(bench.worker()(streaming(text=LONG * 2)))
    await until(lambda: bool(bench.sink.sent), "the first delta is sent")
    hold.set()
    return task


async def test_a_text_is_published_while_it_is_written_and_closed_whole() -> None:
    bench = Bench()
    hold = bench.model.hold = asyncio.Event()
    bench.model.pieces = [["What is ", "a corou"]]
    task = asyncio.create_task(bench.worker()(streaming()))
    await until(lambda: text_of(bench.sink.sent) == "What is a corou", "both pieces are sent")
    assert not task.done()
    hold.set()
    cost, closing, recorded = await task
    assert isinstance(cost, Cost) and isinstance(closing, Delta) and isinstance(recorded.record, Completion)
    assert recorded.record.streamed and not buffered(recorded.record)
    assert [(d.attempt, d.final, d.aborted) for d in bench.sink.sent] == [(0, False, False)] * len(bench.sink.sent)
    assert [d.sequence for d in bench.sink.sent] == list(range(len(bench.sink.sent)))
    starts = [d.start_char for d in bench.sink.sent]
    assert starts == [len(text_of(bench.sink.sent[:n])) for n in range(len(starts))]
    assert all(d.elapsed_ms is not None and d.elapsed_ms >= 0 for d in bench.sink.sent)
    assert (closing.attempt, closing.sequence, closing.start_char) == (0, CLOSING, 0)
    assert (closing.final, closing.aborted, closing.finish_reason) == (True, False, "stop")
    assert closing.text == recorded.record.text == Text(inline="What is a coroutine?")
    assert (closing.user, closing.team, closing.route) == ("u1", "search", "default")
    ids = {delta.meta.event_id for delta in (*bench.sink.sent, closing)}
    assert len(ids) == len(bench.sink.sent) + 1
    assert all(d.meta.request_id == "r1" and d.meta.causation_id for d in bench.sink.sent)


async def test_a_redelivery_gives_the_same_closing_bytes_and_no_live_delta() -> None:
    bench = Bench()
    bench.fail_with(TransientProviderError("http_500", "500", http_status=500))
    first = await bench.worker("w1")(streaming())
    sent = len(bench.sink.sent)
    other = bench.worker("w2", route=replace(bench.route, stream=False))
    assert as_bytes(await other(replace(streaming(), control_offset=99))) == as_bytes(first)
    assert len(bench.sink.sent) == sent and [type(item) for item in first] == [Cost, Cost, Delta, Recorded]
    assert first[2].attempt == 1


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_json_is_buffered(kind: str) -> None:
    await _is_buffered(Bench(), text='{"a": 1}', response_format=ResponseFormat(type=kind))


async def test_a_request_with_tools_is_buffered() -> None:
    await _is_buffered(Bench(), tools_json=Text(inline="[]"))


async def test_a_route_may_be_buffered() -> None:
    await _is_buffered(Bench(stream=False))


async def test_a_request_that_wants_no_stream_has_no_delta() -> None:
    bench = Bench()
    _, recorded = await bench.worker()(event())
    assert bench.sink.sent == [] and not recorded.record.streamed and not buffered(recorded.record)


async def _is_buffered(bench: Bench, **asked: Any) -> None:
    _, recorded = await bench.worker()(streaming(**asked))
    assert bench.sink.sent == [] and bench.heard.gaps == [] and buffered(recorded.record)


async def test_a_failed_call_of_a_buffered_route_has_no_delta() -> None:
    bench = Bench(stream=False)
    bench.fail_with(PermanentProviderError("http_400", "400"))
    assert [type(item) for item in await bench.worker()(streaming())] == [Cost, Answer]


@pytest.mark.parametrize("streams", [True, False])
async def test_the_answer_to_a_call_that_broke_off_says_that_text_went_out_only_where_the_route_streams(
    streams: bool,
) -> None:
    bench = Bench(stream=streams, max_attempts=1)
    bench.fail_with(OutcomeUnknownError("read_timeout", "it broke off"))
    *_, answer = await bench.worker()(streaming())
    assert [attempt.state for attempt in answer.attempts] == ["unknown"]
    assert [verdict.category for verdict in answer.verdicts] == (["public"] if streams else [])


async def test_a_stream_that_broke_off_begins_anew_under_the_next_attempt() -> None:
    bench = Bench()
    task = await broken(bench, LONG)
    bench.model.pieces = [["The lamp "]]
    hold = bench.model.hold = asyncio.Event()
    await until(lambda: bench.sink.sent[-1].attempt == 1, "the second attempt streams")
    hold.set()
    cost, again, closing, recorded = await task
    first = [delta for delta in bench.sink.sent if delta.attempt == 0]
    *live, aborted = first
    assert text_of(live) == LONG
    assert (aborted.aborted, aborted.final, aborted.sequence, aborted.text) == (True, False, ABORTED, None)
    second = [delta for delta in bench.sink.sent if delta.attempt == 1]
    assert bench.sink.sent == first + second
    assert [(delta.start_char, text_of([delta])) for delta in second] == [(0, "The lamp ")]
    assert (closing.attempt, closing.text) == (1, recorded.record.text)
    assert [cost.state, again.state] == ["unknown", "done"]


async def test_an_attempt_of_which_nothing_was_sent_says_nothing_of_its_end() -> None:
    bench = Bench()
    bench.fail_with(TransientProviderError("http_429", "429", http_status=429))
    await bench.worker()(streaming())
    assert not [delta for delta in bench.sink.sent if delta.aborted]


async def test_a_route_that_does_not_restart_ends_a_stream_that_broke_in_public() -> None:
    bench = Bench(on_break="failed")
    cost, closing, answer = await (await broken(bench, LONG))
    assert (answer.status, answer.failure.code, answer.failure.error_class) == ("failed", "stream_broken", "unknown")
    assert (closing.aborted, closing.final, closing.text, closing.finish_reason) == (True, True, None, "stream_broken")
    assert (closing.attempt, closing.sequence) == (0, CLOSING)
    assert [(v.stage, v.outcome, v.category) for v in answer.verdicts] == [("complete", "changed", "public")]
    assert len(bench.model.calls) == 1 and cost.upper_bound
    assert as_bytes(await bench.worker("w2")(streaming(text=LONG * 2))) == as_bytes([cost, closing, answer])


async def test_what_closes_a_stream_that_failed_depends_on_the_journal_alone() -> None:
    bench = Bench()
    bench.fail_with(PermanentProviderError("http_400", "400"))
    _, closing, answer = await bench.worker()(streaming())
    assert answer.verdicts == (), "the provider refused it: nothing was public"
    _, again, _ = await bench.worker("w2")(replace(streaming(), control_offset=99))
    assert as_bytes([again]) == as_bytes([closing]) and closing.meta.control_offset == 3


async def test_a_route_that_does_not_restart_tries_again_while_nothing_is_public() -> None:
    bench = Bench(on_break="failed")
    *_, recorded = await (await broken(bench, HELD))
    assert isinstance(recorded.record, Completion) and len(bench.model.calls) == 2


async def test_a_call_that_may_not_be_repeated_stays_indeterminate_and_closes_its_stream() -> None:
    bench = Bench(on_break="failed", unknown_policy="fail")
    with pytest.raises(IndeterminateError) as caught:
        await (await broken(bench, LONG))
    _, closing, answer = caught.value.outputs
    assert isinstance(closing, Delta) and closing.final and closing.aborted
    assert isinstance(answer, Answer)


@pytest.mark.parametrize(("on_break", "calls"), [("restart", 2), ("failed", 1)])
async def test_a_worker_lost_in_mid_stream_is_followed_by_a_call_only_where_the_route_restarts(
    on_break: str, calls: int
) -> None:
    bench = Bench(on_break=on_break)
    bench.model.hold = asyncio.Event()
    bench.model.pieces = [[LONG]]
    task = asyncio.create_task(bench.worker("w1")(streaming()))
    await until(lambda: bool(bench.sink.sent), "the first delta is sent")
    task.cancel()
    await asyncio.wait((task,))
    bench.clock.advance(16)
    bench.model.hold = None
    *_, closing, last = await bench.worker("w2")(streaming())
    assert len(bench.model.calls) == calls
    assert closing.final and closing.aborted == (on_break == "failed")
    if on_break == "restart":
        told = [delta for delta in bench.sink.sent if delta.aborted]
        assert [(delta.attempt, delta.sequence) for delta in told] == [(0, ABORTED)]
        assert closing.attempt == 1
    else:
        assert last.failure.code == "stream_broken"


async def test_a_broker_that_is_away_loses_deltas_and_not_the_reply() -> None:
    bench = Bench()
    bench.sink.failures = [DependencyDownError("kafka", "test")]
    hold = bench.model.hold = asyncio.Event()
    bench.model.pieces = [["What is "]]
    task = asyncio.create_task(bench.worker()(streaming()))
    await until(lambda: bench.heard.deltas == ["lost"], "the delta is given up")
    hold.set()
    _, closing, recorded = await task
    assert bench.sink.sent == [] and closing.text == recorded.record.text
    assert len(bench.model.calls) == 1


async def test_a_send_that_never_ends_holds_nothing_up_for_long() -> None:
    bench = Bench()
    bench.sink.hold = asyncio.Event()
    hold = bench.model.hold = asyncio.Event()
    bench.model.pieces = [["What is "]]
    worker = bench.worker(pace=Pace(interval_s=0.0, settle_s=0.01))
    task = asyncio.create_task(worker(streaming()))
    await until(lambda: bool(bench.model.calls), "the call is open")
    for _ in range(20):
        await asyncio.sleep(0)
    hold.set()
    _, closing, _ = await asyncio.wait_for(task, 20)
    assert closing.text.inline == "What is a coroutine?" and bench.sink.sent == []


async def test_the_journal_has_the_reply_before_the_last_delta_is_waited_for() -> None:
    bench = Bench()
    bench.sink.hold = asyncio.Event()
    task = asyncio.create_task(bench.worker(pace=Pace(interval_s=0.0, characters=1, settle_s=60.0))(streaming()))
    await until(lambda: bool(bench.journal.calls), "the call is claimed")
    call_id = KEY.call_id
    await until(lambda: bench.journal.calls[call_id].state == "done", "the journal has the reply")
    assert not task.done()
    bench.sink.hold.set()
    *_, recorded = await task
    assert CODEC.decode(bench.journal.calls[call_id].result or b"", Completion) == recorded.record


async def test_a_worker_that_may_have_lost_its_call_sends_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    worker = bench.worker()
    answers = iter([True])
    monkeypatch.setattr(worker.keeper, "trusts", lambda lease: next(answers, False))
    bench.model.script = echo
    hold = bench.model.hold = asyncio.Event()
    bench.model.pieces = [["What is "]]
    task = asyncio.create_task(worker(streaming()))
    await until(lambda: bench.heard.deltas == ["lost"], "the worker sends no more")
    hold.set()
    await task
    assert bench.sink.sent == []


async def test_first_tokens_and_gaps_are_measured() -> None:
    bench = Bench()
    await bench.worker()(streaming())
    assert bench.heard.first_tokens == [0.0005]
    assert len(bench.heard.gaps) == 3
    assert all(gap >= 0 for gap in bench.heard.gaps)
