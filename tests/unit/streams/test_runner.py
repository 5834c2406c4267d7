"""What the runner does with one event, with fakes for broker, database and clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from structlog.testing import capture_logs

from processors.event import Incoming, Output
from schemas.errors import (
    ConfigurationError,
    DependencyDownError,
    IndeterminateError,
    OversizedError,
    PermanentProviderError,
    PoisonError,
    RefusedError,
)
from schemas.records import Admission, Admitted, Answer, Cost, Request, Text, Timing
from streams.headers import TIMINGS, dump_timings, header
from streams.runner import MAX_FAILURES
from streams.stages import STAGES, Input
from tests.support.running import CODEC, LANE, NOW, Bench, Event, Message, admit, failing, message, request


async def test_an_event_is_acked_after_its_output_was_acknowledged() -> None:
    bench = Bench(admit)
    event = await bench.take(message())
    assert event.acks == 1
    (sent,) = bench.sent("admitted")
    assert sent.key == b"r1"
    admitted = CODEC.decode(sent.value or b"", Admitted)
    assert admitted.meta.accepted_at == datetime.fromtimestamp(NOW.timestamp() - 2, UTC)
    assert admitted.meta.control_offset == 3


async def test_an_output_that_the_broker_did_not_take_is_sent_again_with_the_same_bytes() -> None:
    bench = Bench(admit)
    bench.producer.failures = [DependencyDownError("kafka", "away")]
    event = await bench.take(message())
    assert event.acks == 1
    assert len(bench.sent("admitted")) == 1


async def test_timings_travel_in_headers_and_never_in_the_bytes() -> None:
    async def hand_on(incoming: Incoming[Admitted]) -> Sequence[Output]:
        return [replace(incoming.record, meta=incoming.child("enrich", "1"))]

    def admitted(headers: list[tuple[str, bytes]]) -> Message:
        value = CODEC.encode(Admitted(meta=request().meta, request=request(), admission=Admission()))
        return message(value=value, headers=headers, topic="live.admitted")

    before = Timing(stage="earlier", waited_ms=1.0, service_ms=2.0)
    bench = Bench(hand_on, stage=STAGES["enrich"])
    await bench.take(admitted([(TIMINGS, dump_timings([before]))]))
    (sent,) = bench.sent("admitted")
    assert b"earlier" in (header(sent.headers, TIMINGS) or b"")
    again = Bench(hand_on, stage=STAGES["enrich"])
    again.clock.advance(60)
    await again.take(admitted([]))
    assert again.sent("admitted")[0].value == sent.value


@pytest.mark.parametrize("value", [b"no avro", b"", b"\x00\x00\x00\x00\x01", None])
async def test_bytes_that_are_no_event_are_dead_lettered_as_they_are(value: bytes | None) -> None:
    bench = Bench(admit)
    with capture_logs() as said:
        event = await bench.take(message(value=value, headers=[("mine", b"1")]))
    told = next(line for line in said if line["event"] == "dead letter")
    assert (told["topic"], told["partition"], told["offset"]) == ("live.requests", 0, 7)
    (letter,) = bench.sent("dead-letters")
    assert (letter.key, letter.value) == (b"r1", value)
    assert header(letter.headers, "mine") == b"1"
    assert header(letter.headers, "__connect.errors.offset") == b"7"
    assert header(letter.headers, "headrace.error.class") == b"poison"
    assert header(letter.headers, "__connect.errors.exception.message")
    assert event.acks == 1 and not bench.answers()


async def test_a_record_of_another_type_is_dead_lettered() -> None:
    cost = Cost(meta=request().meta, attempt_id="a", state="done", amount_usd=Decimal(1))
    bench = Bench(admit)
    await bench.take(message(value=CODEC.encode(cost)))
    (letter,) = bench.sent("dead-letters")
    assert header(letter.headers, "__connect.errors.exception.class.name") == b"WrongRecordError"


async def test_a_dependency_that_is_away_is_waited_for_without_an_attempt() -> None:
    down = [DependencyDownError("postgres", "away") for _ in range(MAX_FAILURES + 2)]
    bench = Bench(failing(*down))
    event = await bench.take(message())
    assert event.acks == 1
    assert len(bench.sent("admitted")) == 1 and not bench.sent("dead-letters")


async def test_a_release_lets_a_waiting_event_go_unacked() -> None:
    bench = Bench(failing(*[DependencyDownError("postgres", "away")] * 50))
    bench.dependencies_up.clear()
    event = Event(message())
    task = asyncio.ensure_future(bench.runner.take(event))
    async with asyncio.timeout(5):
        while not bench.gate.down:
            await asyncio.sleep(0)
        bench.gate.release()
        await task
    assert event.acks == 0 and bench.outcome("released") == 1


async def test_a_refusal_ends_in_a_final_answer_that_names_the_field() -> None:
    bench = Bench(failing(RefusedError("invalid_request", "user: may hold letters", field="user")))
    event = await bench.take(message())
    (answer,) = bench.answers()
    assert (answer.status, answer.failure and answer.failure.field) == ("rejected", "user")
    assert [timing.stage for timing in answer.timings] == ["admit"]
    assert event.acks == 1


async def test_a_processor_that_always_raises_ends_in_a_dead_letter_and_a_failed_answer() -> None:
    bench = Bench(failing(*[KeyError("the user's secret text")] * 10))
    event = await bench.take(message())
    (letter,), (answer,) = bench.sent("dead-letters"), bench.answers()
    assert header(letter.headers, "headrace.error.attempts") == str(MAX_FAILURES).encode()
    assert not any(b"secret" in value for _, value in letter.headers), "headers never quote the event"
    assert answer.status == "failed" and "secret" not in str(answer.failure)
    assert event.acks == 1


async def test_an_attempt_over_the_time_limit_is_repeated_and_then_given_up() -> None:
    async def hang(_incoming: Incoming[Any]) -> Sequence[Output]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    bench = Bench(hang, timeout_s=0.02)
    await bench.take(message())
    (answer,) = bench.answers()
    assert answer.failure is not None and answer.failure.code == "timeout"


async def test_a_permanent_provider_failure_leaves_no_dead_letter() -> None:
    bench = Bench(failing(PermanentProviderError("http_401", "the key was refused")))
    await bench.take(message())
    (answer,) = bench.answers()
    assert answer.failure is not None and answer.failure.code == "http_401"
    assert not bench.sent("dead-letters")


async def test_an_indeterminate_call_is_dead_lettered_and_answered_failed() -> None:
    bench = Bench(failing(IndeterminateError("the outcome of the call is unknown")))
    await bench.take(message())
    (letter,), (answer,) = bench.sent("dead-letters"), bench.answers()
    assert header(letter.headers, "headrace.error.class") == b"unknown"
    assert answer.status == "failed"


async def test_an_error_that_brings_its_outputs_has_them_published_after_the_dead_letter() -> None:
    error = IndeterminateError("the outcome of the call is unknown")
    cost = Cost(
        meta=replace(request().meta, event_id="attempt-1"), attempt_id="a", state="unknown", amount_usd=Decimal(1)
    )
    error.outputs = (cost,)
    bench = Bench(failing(error))
    event = await bench.take(message())
    assert [o.topic for o in bench.producer.sent] == [f"{LANE}.dead-letters", f"{LANE}.costs"]
    assert event.acks == 1


async def test_a_dead_letter_that_cannot_be_written_stops_the_worker_and_keeps_the_event() -> None:
    bench = Bench(admit)
    bench.producer.failures = [ConfigurationError("live.dead-letters: missing")]
    event = Event(message(value=b"no avro"))
    task = asyncio.ensure_future(bench.runner.take(event))
    async with asyncio.timeout(5):
        while not bench.crashes:
            await asyncio.sleep(0)
    task.cancel()
    assert event.acks == 0


async def test_an_output_over_the_size_limit_is_a_dead_letter_and_a_failed_answer() -> None:
    async def huge(incoming: Incoming[Request]) -> Sequence[Output]:
        (admitted,) = await admit(incoming)
        assert isinstance(admitted, Admitted)
        return [replace(admitted, request=replace(admitted.request, query=Text(inline="x" * 1_000_000)))]

    bench = Bench(huge)
    event = await bench.take(message())
    (answer,) = bench.answers()
    assert answer.failure is not None and "bytes" in answer.failure.message
    assert len(bench.sent("dead-letters")) == 1 and event.acks == 1


async def test_outputs_that_are_refused_for_good_end_in_a_dead_letter_and_hold_up_nothing() -> None:
    bench = Bench(admit)
    bench.producer.failures = [OversizedError("over the broker's own limit")] * MAX_FAILURES
    event = await bench.take(message())
    (letter,), (answer,) = bench.sent("dead-letters"), bench.answers()
    assert header(letter.headers, "__connect.errors.exception.class.name") == b"OversizedError"
    assert answer.status == "failed", "and the request has its one answer all the same"
    assert event.acks == 1


async def test_what_was_spent_is_told_though_the_completion_is_too_large() -> None:
    cost = Cost(meta=request().meta, attempt_id="a", state="done", amount_usd=Decimal(1))

    async def spend(incoming: Incoming[Request]) -> Sequence[Output]:
        (admitted,) = await admit(incoming)
        assert isinstance(admitted, Admitted)
        return [cost, replace(admitted, request=replace(admitted.request, query=Text(inline="x" * 1_000_000)))]

    bench = Bench(spend)
    await bench.take(message())
    assert len(bench.sent("costs")) == 1 and len(bench.answers()) == 1


async def test_a_dead_letter_over_its_own_limit_is_written_without_the_bytes() -> None:
    bench = Bench(admit)
    bench.producer.failures = [OversizedError("over the limit")]
    event = await bench.take(message(value=b"no avro", headers=[("huge", b"x" * 9_000)]))
    (letter,) = bench.sent("dead-letters")
    assert letter.value is None and letter.key == b"r1"
    assert header(letter.headers, "headrace.error.value_bytes") == b"7"
    assert header(letter.headers, "headrace.error.value_sha256") and header(letter.headers, "huge") is None
    assert event.acks == 1


async def test_a_record_without_key_and_value_is_a_dead_letter_that_can_be_written() -> None:
    bench = Bench(admit)
    await bench.take(message(value=None, key=None))
    (letter,) = bench.sent("dead-letters")
    assert (letter.key, letter.value) == (b"", None)


async def test_a_tombstone_with_headers_that_are_no_text_is_a_dead_letter() -> None:
    bench = Bench(admit, stage=STAGES["index"])
    event = await bench.take(message(value=None, headers=[("headrace-tenant", b"\xff\xfe")]))
    assert len(bench.sent("dead-letters")) == 1 and event.acks == 1 and not bench.crashes


async def test_timings_that_a_producer_made_up_are_not_believed() -> None:
    made_up = dump_timings([Timing(stage="x" * 1_000, waited_ms=1.0, service_ms=1.0)] * 500)
    bench = Bench(failing(RefusedError("invalid_request", "no", field="user")))
    event = await bench.take(message(headers=[(TIMINGS, made_up)]))
    (answer,) = bench.answers()
    assert [timing.stage for timing in answer.timings] == ["admit"]
    assert event.acks == 1


async def test_an_event_in_process_is_finished_and_acked_though_the_worker_drains() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(incoming: Incoming[Request]) -> Sequence[Output]:
        entered.set()
        await leave.wait()
        return await admit(incoming)

    bench = Bench(slow)
    event = Event(message())
    task = asyncio.ensure_future(bench.runner.take(event))
    async with asyncio.timeout(5):
        await entered.wait()
        bench.gate.release()
        bench.runner.drain()
        leave.set()
        await task
    assert event.acks == 1 and len(bench.sent("admitted")) == 1


async def test_a_draining_runner_begins_no_second_attempt() -> None:
    bench = Bench(failing(*[KeyError("x")] * 10))
    event = Event(message())
    bench.runner._draining = False
    task = asyncio.ensure_future(bench.runner.take(event))
    async with asyncio.timeout(5):
        while not bench.metrics.registry.get_sample_value(
            "headrace_retries_total", {"stage": "admit", "lane": LANE, "error_class": "poison"}
        ):
            await asyncio.sleep(0)
        bench.runner.drain()
        await task
    assert event.acks == 0 and bench.outcome("released") == 1


@pytest.mark.parametrize("request_id", ["", "a\x00b", "x" * 5000])
async def test_a_request_id_that_nothing_can_be_filed_under_is_a_dead_letter_without_an_answer(request_id: str) -> None:
    bench = Bench(failing(RefusedError("invalid_request", "meta.request_id: no", field="meta.request_id")))
    bad = replace(request(), meta=replace(request().meta, request_id=request_id))
    event = await bench.take(message(value=CODEC.encode(bad)))
    assert len(bench.sent("dead-letters")) == 1 and not bench.answers()
    assert event.acks == 1


async def test_a_later_writer_re_emits_the_stored_answer() -> None:
    first = Bench(failing(RefusedError("invalid_request", "one", field="user")))
    await first.take(message())
    (sent,) = first.sent("answers")
    second = Bench(failing(RefusedError("other", "two", field="query")))
    second.finality = first.finality
    second.runner._services = replace(second.runner._services, finality=first.finality)
    second.runner._publisher._services = second.runner._services
    await second.take(message())
    (again,) = second.sent("answers")
    assert again.value == sent.value
    assert header(again.headers, "ce_id") == header(sent.headers, "ce_id")


async def test_a_draining_runner_takes_no_event() -> None:
    bench = Bench(admit)
    bench.runner.drain()
    event = Event(message())
    task = asyncio.ensure_future(bench.runner.take(event))
    await asyncio.sleep(0)
    assert not task.done() and bench.runner.idle.is_set()
    task.cancel()
    assert event.acks == 0


async def test_an_event_that_is_no_request_on_its_way_ends_in_a_dead_letter_alone() -> None:
    answered = Answer(meta=request().meta, status="answered")
    bench = Bench(failing(PoisonError("no")), stage=replace(STAGES["admit"], inputs=(Input("answers", Answer),)))
    event = await bench.take(message(value=CODEC.encode(answered), topic="live.answers"))
    assert event.acks == 1 and not bench.crashes and not bench.answers()
    (letter,) = bench.sent("dead-letters")
    assert header(letter.headers, "__connect.errors.exception.class.name") == b"PoisonError"


async def test_a_dependency_that_a_stage_does_not_always_need_is_waited_for_once_it_was_missed() -> None:
    up_at_call = []

    async def needing(incoming: Incoming[Any]) -> Sequence[Output]:
        up_at_call.append(bench.dependencies_up.is_set())
        if not up_at_call[-1]:
            raise DependencyDownError("registry", "away")
        return await admit(incoming)

    bench = Bench(needing, stage=replace(STAGES["admit"], dependencies=()))
    bench.dependencies_up.clear()
    event = Event(message())
    task = asyncio.ensure_future(bench.runner.take(event))
    async with asyncio.timeout(30):
        while not up_at_call:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        bench.dependencies_up.set()
        probe = asyncio.ensure_future(bench.gate.run())
        await task
    probe.cancel()
    assert up_at_call == [False, True]
    assert event.acks == 1 and len(bench.sent("admitted")) == 1
