"""What pauses and cancels do to one event in a stage's hands, with fakes for broker, database and clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from processors.event import Incoming, Output
from schemas.errors import DependencyDownError, NotYetError, TransientProviderError
from schemas.records import Admission, Admitted, Enrichment, Grounding, Text
from streams.holding import in_process
from streams.runner import StageRunner
from streams.slots import WeightedSlots
from streams.stages import STAGES
from tests.support.running import CODEC, LANE, NOW, Bench, Event, Message, admit, failing, message, request

GROUNDING = Grounding(question=Text(inline="What?"))
EXPIRES = NOW + timedelta(minutes=5)


def admitted(route: str = "default", **changes: Any) -> Message:
    meta = replace(request().meta, event_id="a1", stage="admit", accepted_at=NOW)
    record = Admitted(meta=meta, request=request(), admission=Admission(route=route, expires_at=EXPIRES))
    return message(value=CODEC.encode(record), topic=f"{LANE}.admitted", headers=[("mine", b"\x00")], **changes)


async def enriched(incoming: Incoming[Any]) -> Sequence[Output]:
    record = incoming.record
    meta = incoming.child("enrich", "1")
    return [Enrichment(meta=meta, request=record.request, admission=record.admission, grounding=GROUNDING)]


async def never(_incoming: Incoming[Any]) -> Sequence[Output]:
    raise AssertionError("nothing may be processed")


def enrich(process: Any = enriched) -> Bench:
    return Bench(process, stage=STAGES["enrich"])


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Consumer:
    def __init__(self) -> None:
        self.ours = True

    def owns(self, _message: Message) -> bool:
        return self.ours


async def test_a_paused_stage_takes_nothing_new_and_goes_on_when_it_is_resumed() -> None:
    bench = enrich()
    bench.control.pause("stage", "enrich")
    event = Event(admitted())
    task = asyncio.ensure_future(bench.runner.take(event))
    await turns()
    assert not task.done() and not bench.producer.sent
    assert in_process([("enrich", bench.runner.holding)]) == {"enrich": {"events": 0, "tenants": {}, "routes": {}}}
    bench.control.resume("stage", "enrich")
    async with asyncio.timeout(5):
        await task
    assert event.acks == 1 and len(bench.sent("enrichments.normal")) == 1


@pytest.mark.parametrize("how", ["stopped", "revoked"])
async def test_what_waits_for_a_resume_is_let_go_unacked(how: str) -> None:
    bench = enrich(never)
    bench.runner.consumer = consumer = Consumer()
    bench.control.pause("stage", "enrich")
    event = Event(admitted())
    task = asyncio.ensure_future(bench.runner.take(event))
    await turns()
    if how == "stopped":
        bench.runner.drain()
    else:
        consumer.ours = False
    async with asyncio.timeout(5):
        await task
    assert event.acks == 0 and bench.outcome("released") == 1


async def test_what_is_in_process_goes_on_while_its_stage_is_paused() -> None:
    inside, go = asyncio.Event(), asyncio.Event()

    async def slow(incoming: Incoming[Any]) -> Sequence[Output]:
        inside.set()
        await go.wait()
        return await enriched(incoming)

    bench = enrich(slow)
    event = Event(admitted())
    task = asyncio.ensure_future(bench.runner.take(event))
    await inside.wait()
    bench.control.pause("stage", "enrich")
    figures = in_process([("enrich", bench.runner.holding), ("enrich", bench.runner.holding)])
    assert figures["enrich"] == {"events": 2, "tenants": {"acme": 2}, "routes": {"default": 2}}
    go.set()
    await task
    assert event.acks == 1
    assert bench.runner.holding.figures() == {"events": 0, "tenants": {}, "routes": {}}


@pytest.mark.parametrize(("kind", "name"), [("tenant", "acme"), ("route", "default")])
async def test_an_event_of_what_is_paused_is_stored_as_it_came_and_acked(kind: Any, name: str) -> None:
    bench = enrich(never)
    bench.control.pause(kind, name)
    source = admitted()
    event = await bench.take(source)
    assert event.acks == 1 and not bench.producer.sent and bench.outcome("deferred") == 1
    [row] = bench.deferred.rows.values()
    stored = row.event
    assert (stored.key, stored.value, list(stored.headers)) == (source.key, source.value, source.headers)
    assert (stored.stage, stored.topic_kind, stored.event_id) == ("enrich", "admitted", "a1")
    assert (stored.tenant, stored.route, stored.priority) == ("acme", "default", "normal")
    assert (stored.accepted_at, stored.expires_at) == (NOW, EXPIRES)
    assert (stored.reason, stored.control_offset) == (f"{kind}/{name}", bench.control.offset)


async def test_an_event_that_comes_twice_is_stored_once() -> None:
    bench = enrich(never)
    bench.control.pause("tenant", "acme")
    assert [(await bench.take(admitted())).acks for _ in range(2)] == [1, 1]
    [row] = bench.deferred.rows.values()
    assert row.generation == 1


@pytest.mark.parametrize(("kind", "name"), [("tenant", "other"), ("route", "other"), ("stage", "complete")])
async def test_others_are_not_held_up(kind: Any, name: str) -> None:
    bench = enrich()
    bench.control.pause(kind, name)
    event = await bench.take(admitted())
    assert event.acks == 1 and len(bench.sent("enrichments.normal")) == 1 and not bench.deferred.rows


async def test_a_stage_that_does_not_set_aside_goes_on_for_a_paused_tenant() -> None:
    bench = Bench(admit)
    bench.control.pause("tenant", "acme")
    assert (await bench.take(message())).acks == 1
    assert len(bench.sent("admitted")) == 1


async def test_an_expired_event_is_processed_though_its_tenant_is_paused() -> None:
    bench = enrich()
    bench.control.pause("tenant", "acme")
    bench.clock.advance(600)
    await bench.take(admitted())
    assert not bench.deferred.rows and len(bench.sent("enrichments.normal")) == 1


def held_back(error: NotYetError | None = None) -> Any:
    """A processor that can't take the event for two minutes."""

    async def process(_incoming: Incoming[Any]) -> Sequence[Output]:
        raise error or NotYetError(120, "deployment/main")

    return process


async def test_what_a_processor_cant_take_yet_is_set_aside_until_then() -> None:
    bench = enrich(held_back())
    event = await bench.take(admitted())
    assert event.acks == 1 and not bench.producer.sent and bench.outcome("deferred") == 1
    [row] = bench.deferred.rows.values()
    assert (row.event.reason, row.not_before) == ("deployment/main", NOW + timedelta(minutes=2))
    assert row.event.value == admitted().value
    due = ("live", "enrich", ("acme", "default"))
    assert not await bench.deferred.take_due(*due, limit=9, hold_s=9)
    bench.deferred.now += timedelta(minutes=2)
    assert len(await bench.deferred.take_due(*due, limit=9, hold_s=9)) == 1


async def test_a_request_that_expired_is_not_set_aside_but_ended() -> None:
    bench = enrich()
    tries = [held_back()(None)]

    async def process(incoming: Incoming[Any]) -> Sequence[Output]:
        if tries:
            bench.clock.advance(600)
            return list(await tries.pop())
        return await enriched(incoming)

    bench.runner._processor = process
    await bench.take(admitted())
    assert not bench.deferred.rows and len(bench.sent("enrichments.normal")) == 1


async def test_a_stage_that_can_set_nothing_aside_tries_again() -> None:
    errors: list[Exception] = [NotYetError(0.01, "deployment/main")]
    bench = Bench(failing(*errors), stage=replace(STAGES["admit"], puts_off=False))
    event = await bench.take(message())
    assert event.acks == 1 and len(bench.sent("admitted")) == 1 and not bench.deferred.rows


async def test_while_the_database_is_away_an_event_to_be_set_aside_waits_and_is_not_acked() -> None:
    bench = enrich(never)
    bench.control.pause("tenant", "acme")
    real, failures = bench.deferred.store, [DependencyDownError("postgres", "away")]

    async def store(event: Any) -> None:
        if failures:
            raise failures.pop()
        await real(event)

    bench.deferred.store = store  # type: ignore[method-assign]
    event = await bench.take(admitted())
    assert event.acks == 1 and len(bench.deferred.rows) == 1


async def test_a_cancelled_request_ends_failed_and_says_at_which_record() -> None:
    bench = enrich(never)
    bench.control.pause("tenant", "acme")
    bench.control.cancel("acme", "r1")
    event = await bench.take(admitted())
    [answer] = bench.answers()
    assert (answer.status, answer.failure and answer.failure.code) == ("failed", "cancelled")
    assert answer.meta.control_offset == bench.control.offset == 5
    assert event.acks == 1 and not bench.deferred.rows
    assert bench.outcome("cancelled") == 1 and bench.outcome("refused") == 0


async def test_a_cancel_that_comes_before_its_request_ends_it_at_admission() -> None:
    bench = Bench(never)
    bench.control.cancel("acme", "r1")
    await bench.take(message())
    [answer] = bench.answers()
    assert (answer.status, answer.meta.lane) == ("failed", LANE)


async def test_a_request_that_claims_another_lane_is_for_admission_to_refuse() -> None:
    seen = []

    async def look(incoming: Incoming[Any]) -> Sequence[Output]:
        seen.append(incoming.meta.lane)
        return []

    bench = Bench(look)
    bench.control.cancel("acme", "r1")
    stranger = replace(request(), meta=replace(request().meta, lane="elsewhere"))
    await bench.take(message(value=CODEC.encode(stranger)))
    assert seen == ["elsewhere"] and not bench.answers()


async def test_another_request_or_tenant_is_not_cancelled() -> None:
    bench = enrich()
    bench.control.cancel("acme", "r2")
    bench.control.cancel("other", "r1")
    await bench.take(admitted())
    assert not bench.answers() and len(bench.sent("enrichments.normal")) == 1


async def test_a_cancel_ends_the_wait_between_attempts() -> None:
    tried = asyncio.Event()

    async def fails(_incoming: Incoming[Any]) -> Sequence[Output]:
        tried.set()
        raise TransientProviderError("http_500", "busy")

    bench = enrich(fails)
    event = Event(admitted())
    waiting = asyncio.Event()
    bench.runner.holding.unless_cancelled = _long(bench.runner.holding.unless_cancelled, waiting)  # type: ignore
    task = asyncio.ensure_future(bench.runner.take(event))
    await waiting.wait()
    bench.control.cancel("acme", "r1")
    async with asyncio.timeout(5):
        await task
    assert [answer.failure and answer.failure.code for answer in bench.answers()] == ["cancelled"]
    assert event.acks == 1


def _long(real: Any, waiting: asyncio.Event) -> Any:
    """The same, for a back-off that takes an hour."""

    async def wait(incoming: Incoming[Any], backoff: Any) -> None:
        backoff.close()
        waiting.set()
        await real(incoming, asyncio.sleep(3600))

    return wait


async def test_a_cancel_ends_the_wait_at_the_gate() -> None:
    async def down(_incoming: Incoming[Any]) -> Sequence[Output]:
        raise DependencyDownError("embeddings", "away")

    bench = enrich(down)
    bench.gate._probes["embeddings"] = bench._probe
    bench.dependencies_up.clear()
    event = Event(admitted())
    task = asyncio.ensure_future(bench.runner.take(event))
    await turns()
    assert "embeddings" in bench.gate.down and not task.done()
    bench.control.cancel("acme", "r1")
    async with asyncio.timeout(5):
        await task
    assert event.acks == 1 and len(bench.answers()) == 1


async def test_a_paying_stage_asks_its_journal_before_it_ends_a_cancelled_request() -> None:
    asked = []

    async def complete(incoming: Incoming[Any]) -> Sequence[Output]:
        asked.append(incoming.meta.request_id)
        return []

    bench = Bench(complete, stage=STAGES["complete"])
    bench.control.cancel("acme", "r1")
    bench.control.pause("tenant", "acme")
    meta = replace(request().meta, event_id="c1", accepted_at=NOW)
    record = Enrichment(meta=meta, request=request(), admission=Admission(expires_at=EXPIRES), grounding=GROUNDING)
    event = await bench.take(message(value=CODEC.encode(record), topic=f"{LANE}.enrichments.high"))
    assert asked == ["r1"] and event.acks == 1 and not bench.deferred.rows


async def test_a_pause_that_comes_while_an_event_waits_for_its_slot_holds_it() -> None:
    inside, go, done = asyncio.Event(), asyncio.Event(), []

    async def slow(incoming: Incoming[Any]) -> Sequence[Output]:
        inside.set()
        await go.wait()
        done.append(incoming.meta.event_id)
        return []

    bench = enrich()
    stage = bench.runner.stage
    slots = WeightedSlots(1, stage.shares())
    runner = StageRunner(stage, stage.inputs[0], slow, bench.runner._services, slots=slots)
    tasks = [asyncio.ensure_future(runner.take(Event(admitted(offset=n)))) for n in range(2)]
    await inside.wait()
    bench.control.pause("stage", "enrich")
    go.set()
    await tasks[0]
    await turns()
    assert len(done) == 1 and not tasks[1].done()
    bench.control.resume("stage", "enrich")
    async with asyncio.timeout(5):
        await tasks[1]
    assert len(done) == 2
