"""The runner of streams: what is acknowledged and when, with fakes for broker and database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from faust.types import TP

from processors.release.calls import FakeCalls
from processors.release.policy import ReleasePolicy
from processors.release.stage import Release
from schemas.errors import DependencyDownError
from schemas.records import Chunk, Delta
from streams.holding import in_process
from streams.stages import STAGES
from streams.window_runner import WindowRunner
from tests.support.deltas import PROSE, aborted, cleaned, joined, kinds, lives, stream_of
from tests.support.polling import until
from tests.support.running import CODEC, Bench, Event, Message, admit

TEXT = PROSE * 2
TOPIC = "live.deltas"


class Consumer:
    """Owns what a test says."""

    def __init__(self) -> None:
        self.gone: set[int] = set()
        self.ahead = 0

    def owns(self, message: Message) -> bool:
        return message.partition not in self.gone

    def unread(self, _tp: TP) -> int:
        return self.ahead


class Scene(Bench):
    def __init__(self, **policy: float) -> None:
        super().__init__(admit)
        self.calls = FakeCalls()
        self.release = Release(policy=ReleasePolicy(**policy), calls=self.calls)  # type: ignore[arg-type]
        stage = STAGES["release"]
        self.window = WindowRunner(stage, stage.inputs[0], self.release, self.runner._services)
        self.consumer = self.window.consumer = Consumer()
        self.offset = 0

    async def pass_on(self, deltas: Iterable[Delta], *, partition: int = 0) -> list[Event]:
        events = []
        for one in deltas:
            self.offset += 1
            message = Message(CODEC.encode(one), one.meta.request_id.encode(), TOPIC, partition, self.offset)
            events.append(Event(message))
            await self.window.take(events[-1])
        return events

    async def settle(self) -> None:
        while self.window._finishing:
            await asyncio.gather(*self.window._finishing)

    def in_hand(self) -> int:
        """What a drain of the stage would wait for."""
        return int(in_process([("release", self.window.holding)])["release"]["events"])

    def chunks(self) -> list[Chunk]:
        return [CODEC.decode(one.value or b"", Chunk) for one in self.sent("chunks")]


def acks(events: Iterable[Event]) -> set[int]:
    return {event.acks for event in events}


async def test_deltas_are_acknowledged_once_their_stream_is_over_and_not_before() -> None:
    scene = Scene()
    *before, last = stream_of("r1", TEXT)
    held = await scene.pass_on(before)
    assert acks(held) == {0} and kinds(scene.chunks()) == ["text"]
    held += await scene.pass_on([last])
    await scene.settle()
    assert acks(held) == {1}
    assert joined(scene.chunks()).text == cleaned(TEXT)
    value = scene.metrics.registry.get_sample_value
    assert value("headrace_open_streams", {"lane": "live"}) == 0
    assert value("headrace_chunks_total", {"lane": "live", "kind": "end"}) == 1
    assert value("headrace_first_chunk_seconds_count", {"lane": "live"}) == 1
    of = {"stage": "release", "lane": "live"}
    assert value("headrace_stage_wait_seconds_count", of) == len(held)
    assert value("headrace_stage_wait_seconds_sum", of) == 2.0 * len(held), "each was appended two seconds ago"


async def test_nothing_is_acknowledged_before_the_broker_has_every_chunk() -> None:
    scene = Scene()
    scene.producer.lost = 3
    scene.producer.failures = [DependencyDownError("kafka", "test")]
    events = await scene.pass_on(stream_of("r1", TEXT))
    await until(lambda: not scene.producer.failures, "the first try again")
    assert acks(events) == {0} and "kafka" in scene.gate.down
    probe = asyncio.ensure_future(scene.gate.run())
    await scene.settle()
    probe.cancel()
    assert acks(events) == {1}
    assert joined(scene.chunks()).text == cleaned(TEXT), "what came late is put in its place"


async def test_an_undecodable_delta_and_an_impossible_one_are_dead_letters_and_hold_up_nothing() -> None:
    scene = Scene()
    broken = Event(Message(b"nonsense", b"r1", TOPIC))
    await scene.window.take(broken)
    [impossible] = await scene.pass_on([replace(lives("r1", TEXT)[0], attempt=-3)])
    assert (broken.acks, impossible.acks) == (1, 1)
    assert len(scene.sent("dead-letters")) == 2
    events = await scene.pass_on(stream_of("r1", TEXT))
    await scene.settle()
    assert acks(events) == {1} and not scene.crashes


async def test_a_drain_leaves_open_streams_unacknowledged_and_waits_for_those_that_ended() -> None:
    scene = Scene()
    open_ = await scene.pass_on(lives("r1", TEXT))
    over = await scene.pass_on(stream_of("r2", TEXT))
    scene.window.drain()
    await asyncio.wait_for(scene.window.idle.wait(), 10)
    await scene.settle()
    assert acks(over) == {1} and acks(open_) == {0}


async def test_a_revoked_partition_takes_its_streams_along() -> None:
    scene = Scene()
    first = await scene.pass_on(lives("r1", TEXT), partition=3)
    scene.consumer.gone.add(3)
    scene.window.forget({TP(TOPIC, 3)})
    late = await scene.pass_on(lives("r1", TEXT)[:2], partition=3)
    assert scene.release.open_streams == 0 and acks(first + late) == {0}
    scene.consumer.gone.clear()
    again = await scene.pass_on(stream_of("r1", TEXT), partition=3)
    await scene.settle()
    assert acks(again) == {1} and acks(first) == {0}


async def test_a_partition_that_goes_while_the_journal_is_asked_leaves_nothing_behind() -> None:
    scene = Scene()

    class Asked(FakeCalls):
        async def ended(self, meta: object) -> bool:
            scene.consumer.gone.add(0)
            scene.window.forget({TP(TOPIC, 0)})
            return False

    scene.release._calls = Asked()
    events = await scene.pass_on(lives("r1", TEXT)[4:5])
    assert acks(events) == {0} and scene.release.open_streams == 0


async def test_a_stream_that_stands_still_ends_and_no_longer_holds_up_its_partition() -> None:
    scene = Scene(stall_s=0.0)
    events = await scene.pass_on(lives("r1", TEXT))
    scene.consumer.ahead = 5
    await scene.window.expire()
    assert acks(events) == {0}, "there may be more of it among what was not read yet"
    scene.consumer.ahead = 0
    await scene.window.expire()
    await scene.settle()
    assert acks(events) == {1} and kinds(scene.chunks()) == ["text", "failed"]


async def test_no_stream_stands_still_while_a_dependency_is_away_or_the_stage_is_paused() -> None:
    scene = Scene(stall_s=0.0)
    events = await scene.pass_on(lives("r1", TEXT))
    scene.gate.report(DependencyDownError("postgres", "test"))
    await scene.window.expire()
    assert acks(events) == {0}
    scene.gate._down.clear()
    scene.control.pause("stage", "release")
    await scene.window.expire()
    assert acks(events) == {0}


async def test_too_many_streams_end_the_first_one_and_say_so() -> None:
    scene = Scene(most_streams=2)
    first = await scene.pass_on(lives("r1", TEXT)[:3])
    others = await scene.pass_on([*lives("r2", TEXT)[:3], *lives("r3", TEXT)[:3]])
    await scene.settle()
    assert acks(first) == {1} and acks(others) == {0}
    assert [chunk.failure.code for chunk in scene.chunks() if chunk.failure] == ["stream_overloaded"]


async def test_an_abort_of_an_unknown_stream_is_done_at_once() -> None:
    scene = Scene()
    events = await scene.pass_on([aborted("r1")])
    assert acks(events) == {1} and scene.chunks() == []


async def test_a_stream_that_is_over_is_in_hand_until_its_chunks_are_confirmed_and_an_open_one_is_not() -> None:
    scene = Scene()
    await scene.pass_on(lives("open", TEXT))
    assert scene.in_hand() == 0, "a drain would never end"
    scene.producer.lost = 3
    scene.dependencies_up.clear()
    scene.producer.failures = [DependencyDownError("kafka", "test")]
    events = await scene.pass_on(stream_of("r1", TEXT))
    assert scene.in_hand() == 1
    await until(lambda: "kafka" in scene.gate.down, "the first try again")
    assert (scene.in_hand(), acks(events)) == (1, {0})
    scene.dependencies_up.set()
    probe = asyncio.ensure_future(scene.gate.run())
    await scene.settle()
    probe.cancel()
    await until(lambda: scene.in_hand() == 0, "the end of the stream")
    assert acks(events) == {1}


async def test_a_delta_is_in_hand_once_the_stage_is_not_paused_any_more() -> None:
    scene, seen = Scene(), []

    class Asked(FakeCalls):
        async def ended(self, meta: object) -> bool:
            seen.append(scene.in_hand())
            return False

    scene.release._calls = Asked()
    scene.control.pause("stage", "release")
    taking = asyncio.ensure_future(scene.pass_on(lives("r1", TEXT)[4:5]))
    for _ in range(20):
        await asyncio.sleep(0)
    assert scene.in_hand() == 0 and not seen, "it waits, and holds up no drain"
    scene.control.resume("stage", "release")
    await taking
    assert (seen, scene.in_hand()) == ([1], 0)


async def test_every_step_counts_as_progress() -> None:
    scene = Scene()
    await scene.pass_on(lives("r1", TEXT))
    assert scene.window.moved == len(lives("r1", TEXT))
