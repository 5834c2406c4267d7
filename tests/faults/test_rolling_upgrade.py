"""Two builds side by side: a stage is rolled to the next build and back under load, and nothing is lost or changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas.codec import schema_id_of
from schemas.records import Answer, Completion
from tests.faults.evidence import Evidence, collect, read_topics
from tests.faults.pipeline import Scene, scene
from tests.faults.traffic import Planned, Publisher
from tests.faults.verifier import verify
from tests.faults.worker import WorkerProcess
from tests.support.newer_build import NEXT_VERSION, newer_build, rows, run
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

ROLLED = ("filter", "complete")
BATCH = 30
# A worker that leaves for good leaves its partitions idle for the session; nobody is killed, and no lease runs out.
SHORT = {"session_timeout_s": 6.0, "lease_s": 30.0}


@dataclass(frozen=True, slots=True)
class Rolled:
    """What the upgrade left."""

    where: Scene
    evidence: Evidence
    build: Path


@pytest.fixture(scope="module")
def rolled(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rolled]:
    folder = tmp_path_factory.mktemp("rolling")
    build = newer_build(folder / "next")
    with scene(stack, folder / "run", f"r{folder.stat().st_ino:x}", "--median-ms", "60", worker=SHORT) as where:
        yield Rolled(where, _upgrade(where, build), build)


def test_a_rolling_upgrade_and_its_way_back_lose_nothing_and_pay_once(rolled: Rolled) -> None:
    verdict = verify(rolled.evidence)
    assert verdict.violations == ()
    assert verdict.statuses == {"answered": 5 * BATCH}
    assert verdict.extra_paid_calls == 0


def test_both_builds_answered_and_each_read_what_the_other_wrote(rolled: Rolled) -> None:
    codec, topics = rolled.evidence.codec, rolled.evidence.topics
    # This build reads the next one's events: what it does not know is left out.
    completions = {s.key: codec.decode(s.value, Completion).meta.stage_version for s in topics["completions"]}
    answers = {s.key: codec.decode(s.value, Answer).meta.stage_version for s in topics["answers"]}
    pairs = {(completions[key], answers[key]) for key in answers}
    assert {version for version, _ in pairs} == {"1", NEXT_VERSION}
    assert {version for _, version in pairs} == {"1", NEXT_VERSION}
    # A filter of one build had a completion of the other.
    assert pairs & {("1", NEXT_VERSION), (NEXT_VERSION, "1")}


def test_the_next_build_reads_every_event_of_this_one(rolled: Rolled) -> None:
    where = rolled.where
    tail = run(
        rolled.build,
        "-m",
        "streams",
        "tail",
        "answers",
        "--lane",
        where.lane,
        "--from",
        "earliest",
        "--no-follow",
        "--json",
        **where.env,
    )
    seen = {row["record"]["meta"]["request_id"]: row["record"] for row in rows(tail)}
    assert seen.keys() == rolled.evidence.planned.keys()
    # What an older writer did not say has its default.
    assert {record["built_by"] for record in seen.values()} == {"next"}


def _upgrade(where: Scene, build: Path) -> Evidence:
    publisher, asked = Publisher(where), list[Planned]()
    flow = _worker(where, ("admit", "enrich", "index"), "w0")
    old = {stage: _worker(where, (stage,), "old") for stage in ROLLED}
    new = {stage: _worker(where, (stage,), "new", root=build) for stage in ROLLED}
    everyone = [flow, *old.values(), *new.values()]
    try:
        _start([flow, *old.values()])
        publisher.corpus()
        publisher.push_prompt()
        # The contracts first; then stage by stage from the end of the stream, a new worker beside the old one.
        run(build, "-m", "streams", "schemas", "register", **where.env)
        for before, after, when in ((old, new, "there"), (new, old, "back")):
            for stage in ROLLED:
                _ask(where, publisher, asked, f"{when}-{stage}")
                _start([after[stage]])
                _answered(where, asked)
                assert before[stage].stop() == 0, before[stage].tail()
        _ask(where, publisher, asked, "last")
        _answered(where, asked)
        for worker in (flow, *old.values()):
            assert worker.stop() == 0, worker.tail()
    finally:
        for worker in everyone:
            if worker.lives and worker.code is None:
                worker.kill()
    evidence = collect(where, asked, publisher.accepted, documents=publisher.documents)
    ids = {schema_id_of(seen.value) for topic in evidence.topics.values() for seen in topic}
    asyncio.run(_fetch(where, ids))
    return evidence


async def _fetch(where: Scene, ids: set[int]) -> None:
    """Let the verifier know the next build's schemas, as a worker of this build came to know them."""
    for schema_id in ids:
        await where.codec.fetch(schema_id)


def _worker(where: Scene, stages: tuple[str, ...], slot: str, **build: Path) -> WorkerProcess:
    return WorkerProcess(stages, lane=where.lane, slot=slot, env=where.env, folder=where.folder, cpu=None, **build)


def _start(workers: list[WorkerProcess]) -> None:
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.wait_ready()


def _ask(where: Scene, publisher: Publisher, asked: list[Planned], when: str) -> None:
    for number in range(BATCH):
        one = Planned(request_id=f"{where.lane}-{when}-{number}", question="How does the kettle work?")
        publisher.request(one)
        asked.append(one)
    publisher.flush()


def _answered(where: Scene, asked: list[Planned]) -> None:
    wanted = {one.request_id for one in asked}
    eventually(
        lambda: wanted <= {seen.key for seen in read_topics(where, ("answers",))["answers"]},
        "every answer",
        timeout_s=180,
    )
