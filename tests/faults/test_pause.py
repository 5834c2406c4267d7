"""A worker that sleeps past its lease is fenced: its late reply is refused and booked as a duplicate."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.evidence import collect, provider_calls, read_topics
from tests.faults.pipeline import Kill, Scene, scene
from tests.faults.traffic import Planned, Publisher
from tests.faults.verifier import verify
from tests.faults.worker import WorkerProcess
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

SHORT = {"lease_s": 8.0, "session_timeout_s": 6.0, "commit_interval_s": 0.5}
DEADLINE_S = 150.0
# However long it takes another worker to start and to answer: the reply is late, and the call is not.
CALL_S = 160.0
LONG: dict[str, Any] = {
    "deployments": {"fake": {"total_timeout_s": CALL_S, "first_token_timeout_s": CALL_S}},
    "stages": {"complete": {"timeout_s": CALL_S + 10}},
}


def test_a_worker_that_wakes_after_its_lease_changes_nothing_but_its_own_booking(
    stack: TestStack, tmp_path: Path, lane: str
) -> None:
    assert stack.embeddings_url
    slow = ("--slow-ms", "4000", "--slow-share", "1")
    with scene(stack, tmp_path, lane, *slow, partitions=1, worker=SHORT, **LONG) as where:
        publisher = Publisher(where)
        publisher.push_prompt()
        asked = Planned(request_id=f"{lane}-asked", question="How does the lamp work?")
        rest = _worker(where, ("admit", "enrich", "filter"), "rest")
        sleeper, other = _worker(where, ("complete",), "sleeper"), _worker(where, ("complete",), "other")
        workers = (rest, sleeper, other)
        try:
            rest.start()
            sleeper.start()
            publisher.request(asked)
            publisher.flush()
            _until(lambda: bool(provider_calls(where.provider.log)), "no call was made")
            sleeper.signal(signal.SIGSTOP)
            paused = time.time()
            other.start()
            _until(lambda: _is_answered(where, asked), "nobody took the call up")
            sleeper.signal(signal.SIGCONT)
            _until(lambda: _booked_late(where), "the late reply is not booked")
            woken = time.time()
            again = Planned(request_id=f"{lane}-again", question="How does the lamp work?")
            publisher.request(again)
            publisher.flush()
            _until(lambda: _is_answered(where, again), "nothing works after the pause")
            assert [worker.stop() for worker in workers] == [0, 0, 0], sleeper.tail()
        finally:
            for worker in workers:
                if worker.lives and worker.code is None:
                    worker.kill()
        evidence = collect(where, [asked, again], publisher.accepted, kills=(Kill("complete", paused, woken),))
    verdict = verify(evidence)
    assert verdict.violations == ()
    assert verdict.paid_calls == 3
    late, done = (row for row in evidence.attempts if row.request_id == asked.request_id)
    assert late.duplicate
    assert late.late_at is not None
    assert done.state == "done"
    assert len({seen.value for seen in evidence.topics["answers"] if seen.key == asked.request_id}) == 1


def _worker(where: Scene, stages: tuple[str, ...], slot: str) -> WorkerProcess:
    return WorkerProcess(stages, lane=where.lane, slot=slot, env=where.env, folder=where.folder, cpu=None)


def _is_answered(where: Scene, planned: Planned) -> bool:
    return planned.request_id in {seen.key for seen in read_topics(where, ("answers",))["answers"]}


def _booked_late(where: Scene) -> bool:
    with psycopg.connect(where.dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM attempts JOIN calls USING (call_id) WHERE lane = %s AND late_at IS NOT NULL",
            (where.lane,),
        ).fetchone()
    return row is not None and row[0] > 0


def _until(holds: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.1)
