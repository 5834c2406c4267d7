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
def scene(stack: TestStack, lane: str, tmp_path: Path, request: pytest.FixtureRequest) -> ReleaseScene:
    return ReleaseScene(stack, lane, tmp_path, partitions=2, **getattr(request, "param", {}))


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


@pytest.mark.parametrize("scene", [{"release": {"stall_s": 8.0}}], indirect=True, ids=["stall"])
def test_a_stream_goes_out_while_it_comes_and_holds_its_offsets_until_it_is_over(
    scene: ReleaseScene, worker: WorkerProcess
) -> None:
    """One life of a worker: a stream that goes well, one that stands still, a drain and what comes after it."""
    lane = scene.lane
    open_ = lives("open", TEXT, lane=lane)
    scene.publish(open_)
    eventually(lambda: len(joined(scene.chunks()["open"]).text) > len(TEXT) // 2, "chunks before the end")
    scene.publish(stream_of("whole", TEXT, lane=lane))
    eventually(lambda: "whole" in scene.ended(), "the end of a stream that went well")
    assert joined(scene.chunks()["whole"]).text == cleaned(TEXT)
    scene.publish([aborted("broken", lane=lane, code="provider_unavailable")])
    eventually(lambda: "broken" in scene.ended(), "a failed chunk")
    assert worker.metrics()["headrace_open_streams"] == 1

    # Its deltas are not acknowledged, so the partition is not committed past the first of them.
    first = {e.partition: e.offset for e in reversed(scene.entries("deltas")) if e.key == b"open"}
    assert all(scene.committed().get(partition, 0) <= offset for partition, offset in first.items())

    eventually(lambda: "open" in scene.ended(), "the end of a stream that stands still")
    assert kinds(scene.chunks()["open"]) == ["text", "failed"]
    ends = {e.partition: e.offset + 1 for e in scene.entries("deltas")}
    eventually(lambda: scene.committed() == ends, "all is committed")

    scene.publish(lives("late", TEXT, lane=lane))
    eventually(lambda: bool(scene.chunks()["late"]), "chunks of another stream")
    assert worker.stop() == 0, worker.tail()
    assert scene.committed() != {e.partition: e.offset + 1 for e in scene.entries("deltas")}
    worker.start()
    scene.publish(stream_of("late", TEXT, lane=lane)[-1:])
    eventually(lambda: "late" in scene.ended(), "the end of a stream over a restart")
    chunks = scene.chunks()["late"]
    assert joined(chunks).text == cleaned(TEXT) and joined(chunks).failure is None
    assert len({chunk.meta.event_id for chunk in chunks}) < len(chunks), "rebuilt from its first delta"


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
