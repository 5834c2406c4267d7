"""A dependency goes away for longer than three attempts may take: events wait, and nothing is lost or failed."""

from __future__ import annotations

import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra.embedded import stack as embedded
from tests.faults.pipeline import STAGES, Pipeline, scene
from tests.faults.traffic import Planned, Publisher
from tests.support.polling import POLL_S, eventually
from tests.support.stack import TestStack

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

ATTEMPT_S = 16.0
DEADLINE_S = 150.0
GROUPS = (("admit", "enrich", "filter", "index"), ("complete",))
BATCH = 15
CHANGES = {
    "stages": {stage: {"timeout_s": ATTEMPT_S} for stage in STAGES},
    "worker": {"lease_s": 2.0},
    "kafka": {"produce_timeout_s": 5.0},
    "deployments": {"fake": {"total_timeout_s": 10.0, "first_token_timeout_s": 10.0}},
}


@pytest.fixture(scope="module")
def own_stack() -> Iterator[TestStack]:
    """A stack of this module's own, whose parts can be taken away."""
    folder = Path(tempfile.mkdtemp(prefix="hr-"))
    folder.chmod(0o755)
    started = TestStack(folder)
    yield started
    started.close()


def page(pipeline: Pipeline, stage: str, name: str) -> int:
    """The status of a worker's page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{pipeline.worker(stage).port}/{name}", timeout=60) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("component", "away_s"),
    [("postgres", 3 * ATTEMPT_S + 1), ("registry", 20.0), ("kafka", 20.0), ("embeddings", 10.0)],
)
def test_an_outage_loses_and_fails_nothing(
    own_stack: TestStack, tmp_path: Path, lane: str, component: str, away_s: float
) -> None:
    with scene(own_stack, tmp_path, lane, **CHANGES) as place, Pipeline(place, GROUPS) as pipeline:
        publisher = Publisher(place)
        publisher.push_prompt()
        asked = publish(publisher, lane, "before")
        eventually(lambda: len(finals(place.dsn, lane)) > 2, "the first answers", timeout_s=DEADLINE_S)
        embedded.remove(own_stack.folder, [component])
        gone = time.monotonic()
        if component != "kafka":
            asked += publish(publisher, lane, "during")
        # Who needs no embeddings is ready without them.
        needing = ("admit",) if component == "embeddings" else ("admit", "complete")
        ready(pipeline, 503, needing)
        ready(pipeline, 200, () if "complete" in needing else ("complete",))
        while time.monotonic() - gone < away_s:
            assert page(pipeline, "admit", "livez") == 200, "an outage of others is no reason to restart"
            time.sleep(POLL_S)
        if component == "registry":
            # Known schemas go on: the events of the outage are done before it ends.
            wait_for_all(place.dsn, lane, asked, "answers without the registry")
        embedded.up(own_stack.folder, components=(component,))
        ready(pipeline, 200, needing)
        asked += publish(publisher, lane, "after")
        wait_for_all(place.dsn, lane, asked, "every answer")
        assert finals(place.dsn, lane) == dict.fromkeys(asked, "answered")
        paid = place.provider.paid()
        assert {request: paid[request] for request in asked} == dict.fromkeys(asked, 1)
        assert all(worker.lives == 1 and worker.code is None for worker in pipeline.workers.values())
        assert set(pipeline.stop().values()) == {0}


def ready(pipeline: Pipeline, status: int, stages: tuple[str, ...]) -> None:
    """Wait until the readiness of these stages' workers is ``status``."""
    for stage in stages:
        eventually(
            lambda stage=stage: page(pipeline, stage, "readyz") == status,  # type: ignore[misc]
            f"{stage} {status}",
            timeout_s=DEADLINE_S,
        )


def wait_for_all(dsn: str, lane: str, asked: list[str], what: str) -> None:
    """Until there are as many final answers as requests."""
    eventually(lambda: len(finals(dsn, lane)) == len(asked), what, timeout_s=DEADLINE_S)


def publish(publisher: Publisher, lane: str, when: str) -> list[str]:
    planned = [
        Planned(request_id=f"{lane}-{when}-{number}", question="How does the kettle work?") for number in range(BATCH)
    ]
    for one in planned:
        publisher.request(one)
    publisher.flush()
    return [one.request_id for one in planned]


def finals(dsn: str, lane: str) -> dict[str, str]:
    """Status by request, while the database answers."""
    try:
        with psycopg.connect(dsn, connect_timeout=30) as connection:
            return dict(connection.execute("SELECT request_id, status FROM finals WHERE lane = %s", (lane,)).fetchall())
    except psycopg.OperationalError:
        return {}
