"""A lane's topics get more partitions while requests flow: all are answered, and the new partitions are used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.evidence import collect, read_topics
from tests.faults.pipeline import Pipeline, Scene, scene
from tests.faults.traffic import Planned, Publisher
from tests.faults.verifier import verify
from tests.support.newer_build import ROOT, run
from tests.support.polling import eventually
from tests.support.stack import TestStack

pytestmark = [pytest.mark.stack, pytest.mark.faults, pytest.mark.timeout(900)]

BATCH = 40
FEW, MANY = 2, 5
# Long enough that a restarted worker is back as the member it was, which by itself makes for no new assignment.
# Nobody is killed, and no lease runs out.
WITHIN = {"session_timeout_s": 25.0, "lease_s": 30.0}


def test_growing_every_topic_under_load_loses_nothing(stack: TestStack, tmp_path: Path) -> None:
    with scene(stack, tmp_path / "run", f"g{tmp_path.stat().st_ino:x}", partitions=FEW, worker=WITHIN) as few:
        many = replace(few, settings=few.settings.model_copy(update={"partitions": MANY}))
        publisher, asked = Publisher(few), list[Planned]()
        with Pipeline(few, (("admit", "enrich", "index"), ("complete", "filter"))) as pipeline:
            publisher.corpus()
            publisher.push_prompt()
            _ask(few, publisher, asked, "before")
            grown = json.loads(
                run(ROOT, "-m", "streams", "topics", "apply", "--lane", few.lane, "--grow", "--json",
                    **{**few.env, "HEADRACE_PARTITIONS": str(MANY)})
            )  # fmt: skip
            assert grown["grow"][f"{few.lane}.requests"] == {"now": FEW, "wanted": MANY}
            # A producer that knows of the growth, beside one that does not.
            knows = Publisher(many)
            _ask(few, publisher, asked, "during")
            _ask(few, knows, asked, "knows")
            # Worker after worker: a restarted one sees the new partitions at once, a running one within a minute.
            for worker in pipeline.workers.values():
                assert worker.stop() == 0, worker.tail()
                worker.start()
                worker.wait_ready()
            _ask(few, knows, asked, "after")
            _answered(many, asked)
            pipeline.stop()
        accepted = {**publisher.accepted, **knows.accepted}
        evidence = collect(many, asked, accepted, documents=publisher.documents)
        verdict = verify(evidence)
        assert verdict.violations == ()
        assert verdict.statuses == {"answered": len(asked)}
        assert verdict.extra_paid_calls == 0
        for kind in ("requests", "admitted", "completions", "answers"):
            assert {seen.partition for seen in evidence.topics[kind]} > set(range(FEW)), kind


def _ask(where: Scene, publisher: Publisher, asked: list[Planned], when: str) -> None:
    for number in range(BATCH):
        one = Planned(request_id=f"{where.lane}-{when}-{number}", question="How does the lamp work?")
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
