"""The release on the real broker: chunks while deltas come, acknowledgements only at a stream's end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from processors.journal import PostgresJournal
from processors.postgres import Database
from processors.release.calls import JournalCalls
from tests.faults.worker import WorkerProcess
from tests.support.deltas import PROSE, aborted, arriving, cleaned, joined, kinds, lives, stream_of
from tests.support.polling import eventually
from tests.support.releasing import ReleaseScene
from tests.support.stack import TestStack

pytestmark = pytest.mark.stack

TEXT = PROSE * 4


@pytest.fixture
def scene(stack: TestStack, lane: str, tmp_path: Path) -> ReleaseScene:
    return ReleaseScene(stack, lane, tmp_path, partitions=2)


@pytest.fixture
def worker(scene: ReleaseScene) -> Iterator[WorkerProcess]:
    started = scene.worker()
    started.start()
    try:
        started.wait_ready()
        yield started
    finally:
        if started.code is None:
            started.kill()


def test_a_stream_goes_out_while_it_comes_and_holds_its_offsets_until_it_is_over(
    scene: ReleaseScene, worker: WorkerProcess
) -> None:
    """Streams that go well, break off and stand still, over a drain of the worker and what comes after it."""
    lane = scene.lane
    scene.publish(lives("open", TEXT, lane=lane))
    eventually(lambda: len(joined(scene.chunks()["open"]).text) > len(TEXT) // 2, "chunks before the end")
    scene.publish(stream_of("whole", TEXT, lane=lane))
    eventually(lambda: "whole" in scene.ended(), "the end of a stream that went well")
    assert joined(scene.chunks()["whole"]).text == cleaned(TEXT)
    scene.publish([aborted("broken", lane=lane, code="provider_unavailable")])
    eventually(lambda: "broken" in scene.ended(), "a failed chunk")
    assert worker.metrics()["headrace_open_streams"] == 1
    _nothing_is_committed_of(scene, "open")

    scene.publish(lives("late", TEXT, lane=lane))
    eventually(lambda: bool(scene.chunks()["late"]), "chunks of another stream")
    assert worker.stop() == 0, worker.tail()
    _nothing_is_committed_of(scene, "open", "late")
    # One goes on where it was, the other one is not heard of any more.
    scene.publish(stream_of("late", TEXT, lane=lane)[-1:])
    worker.start(HEADRACE_RELEASE__STALL_S="4")
    eventually(lambda: "late" in scene.ended(), "the end of a stream over a restart")
    chunks = scene.chunks()["late"]
    assert joined(chunks).text == cleaned(TEXT) and joined(chunks).failure is None
    assert len({chunk.meta.event_id for chunk in chunks}) < len(chunks), "rebuilt from its first delta"
    eventually(lambda: "open" in scene.ended(), "the end of a stream that stands still")
    assert kinds(scene.chunks()["open"]) == ["text", "failed"]
    ends = {e.partition: e.offset + 1 for e in scene.entries("deltas")}
    eventually(lambda: scene.committed() == ends, "all is committed")


def _nothing_is_committed_of(scene: ReleaseScene, *names: str) -> None:
    """No delta of these is acknowledged, so no partition is committed past the first of them."""
    keys = {name.encode() for name in names}
    first = {e.partition: e.offset for e in reversed(scene.entries("deltas")) if e.key in keys}
    assert first
    committed = scene.committed()
    assert all(committed.get(partition, 0) <= offset for partition, offset in first.items())


def test_streams_move_with_their_partitions_when_workers_join_and_leave(
    scene: ReleaseScene, worker: WorkerProcess
) -> None:
    names = [f"r{number}" for number in range(12)]
    streams = {name: stream_of(name, f"{name} said: {TEXT}", lane=scene.lane) for name in names}
    for name in names:
        scene.publish(streams[name][:20])
    eventually(lambda: len(scene.chunks()) == len(names), "chunks of every stream")
    other = scene.worker("w1")
    other.start()
    try:
        other.wait_ready()
        for name in names:
            scene.publish(streams[name][20:40])
        assert other.stop() == 0, other.tail()
    finally:
        if other.code is None:
            other.kill()
    for name in names:
        scene.publish(streams[name][40:])
    eventually(lambda: scene.ended() == set(names), "the end of every stream")
    found = scene.chunks()
    assert {name: joined(found[name]).text for name in names} == {n: cleaned(f"{n} said: {TEXT}") for n in names}
    assert all(joined(found[name]).failure is None for name in names)


async def test_a_delta_of_a_call_that_has_ended_is_known_by_the_journal(stack: TestStack) -> None:
    """The port's adapter against the table; the rules are tested with a fake."""
    database = await Database.open(stack.postgres_dsn)
    calls = JournalCalls(PostgresJournal(database))
    meta = arriving(lives("never-made", TEXT)[0]).meta
    assert await calls.ended(meta) is False
    await database.close()
