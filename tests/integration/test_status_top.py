"""``status`` and ``top`` against a broker and a database with a real worker in another process."""

from __future__ import annotations

import json
import os
import pty
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from schemas.records import Meta, Request, Retrieval, Text
from streams.publish import Publisher as RequestPublisher
from streams.topics import topic_name
from tests.faults.pipeline import Pipeline, Scene, scene
from tests.faults.traffic import Publisher
from tests.faults.worker import ROOT
from tests.support.commands import Ran, run_headrace
from tests.support.polling import eventually
from tests.support.stack import TestStack

ASKED = 6
STAGES = ("admit", "enrich", "complete", "filter")


class Watched:
    """A lane with a worker, and the commands that look at it."""

    def __init__(self, place: Scene, pipeline: Pipeline) -> None:
        self.place, self.pipeline = place, pipeline

    def run(self, *arguments: str) -> Ran:
        return run_headrace(*arguments, "--lane", self.place.lane, "--json", environment=self.place.env)

    def status(self) -> dict[str, Any]:
        ran = self.run("status")
        (found,) = ran.objects
        assert ran.code == (1 if found["down"] else 0), found["down"]
        return dict(found)

    def top(self) -> dict[str, dict[str, Any]]:
        (found,) = self.run("top", "--once").objects
        return {stage["stage"]: stage for stage in found["stages"]}

    def ask(self, count: int) -> None:
        place = self.place
        publisher = RequestPublisher(place.settings, place.codec, lane=place.lane)
        for _ in range(count):
            request_id = f"{place.lane}-{secrets.token_hex(4)}"
            meta = Meta(event_id=request_id, request_id=request_id, tenant=place.tenant, lane=place.lane)
            request = Request(meta=meta, query=Text(inline="How?"), retrieval=Retrieval(enabled=False))
            publisher.publish("requests", request, request_id)
        assert publisher.flush() == []

    def rows(self) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.place.dsn) as connection:
            return connection.execute(
                "SELECT slot, pid, url FROM worker_reports WHERE lane = %s", (self.place.lane,)
            ).fetchall()


@pytest.fixture(scope="module")
def watched(stack: TestStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder: Path = tmp_path_factory.mktemp("top")
    with (
        scene(stack, folder, f"t{secrets.token_hex(4)}") as place,
        Pipeline(place, [STAGES]) as pipeline,
    ):
        Publisher(place).push_prompt()
        yield Watched(place, pipeline)


def test_a_worker_reports_where_it_is_and_what_each_stage_did(watched: Watched) -> None:
    watched.ask(ASKED)

    def at_rest() -> bool:
        """Every answer is in the report, and what they were made from is committed."""
        stages = watched.top()
        idle = all((stages[name]["lag_events"], stages[name]["in_flight"]) == (0, 0) for name in STAGES)
        return idle and stages["filter"]["service_ms"]["events"] == ASKED

    eventually(at_rest, "the report of every answer")
    (row,) = watched.rows()
    worker = watched.pipeline.worker("complete")
    assert (row[0], row[2]) == ("w0", f"http://127.0.0.1:{worker.port}")
    stages = watched.top()
    for name in STAGES:
        stage = stages[name]
        assert (stage["workers"], stage["lag_events"], stage["in_flight"]) == (1, 0, 0)
        assert stage["lag_age_s"] is None and stage["done_per_s"] is not None
        assert 0 < stage["service_ms"]["p50"] <= stage["service_ms"]["p95"]
        assert stage["wait_ms"]["p95"] is not None
    complete = stages["complete"]
    assert complete["calls"] == {"done": ASKED} and complete["cost_usd"] > 0
    assert complete["tokens"]["prompt"] > 0
    assert stages["index"]["workers"] == 0 and stages["index"]["service_ms"]["p50"] is None


def test_status_is_sound_while_everything_runs(watched: Watched) -> None:
    eventually(lambda: not watched.status()["down"], "nothing is down")
    found = watched.status()
    assert found["healthy"] is True and found["parts"]["kafka"] == {"ok": True}
    (worker,) = found["workers"]
    assert (worker["state"], worker["stages"]) == ("ready", list(STAGES))
    complete = next(stage for stage in found["stages"] if stage["stage"] == "complete")
    assert [(one["group_state"], one["members"]) for one in complete["inputs"]] == [("stable", 1)] * 3
    assert found["dead_letters"] == {"total": 0, "open_at_most": 0}


def test_top_prints_an_object_a_look_and_a_screen_on_a_terminal(watched: Watched) -> None:
    looks = watched.run("top", "--count", "2", "--interval", "0.3").objects
    assert len(looks) == 2 and looks[1]["window_s"] > looks[0]["window_s"]
    code, text = _on_a_terminal(watched)
    assert code == 0, text
    assert "complete" in text and watched.place.lane in text
    assert "\x1b[?1049l" in text, "the screen is given back"


def test_a_killed_worker_is_stale_and_its_stages_are_down_with_what_waits_and_for_how_long(watched: Watched) -> None:
    watched.pipeline.kill("complete")
    watched.ask(3)
    with psycopg.connect(watched.place.dsn) as connection:
        # As if its last report had been a while ago.
        connection.execute(
            "UPDATE worker_reports SET updated_at = updated_at - interval '1 minute' WHERE lane = %s",
            (watched.place.lane,),
        )
    found = watched.status()
    assert [worker["state"] for worker in found["workers"]] == ["stale"]
    assert any(reason.startswith("admit: no worker runs it") for reason in found["down"])
    admit = found["stages"][0]
    assert admit["lag_events"] == 3 and admit["lag_age_s"] > 0
    later = watched.top()["admit"]
    assert later["lag_age_s"] > admit["lag_age_s"] and later["lag_events"] == 3 and later["workers"] == 0
    # An orderly end leaves no row behind.
    worker = watched.pipeline.worker("complete")
    worker.start()
    worker.wait_ready()
    eventually(lambda: not watched.status()["down"], "the worker took its place again")
    assert len(watched.rows()) == 1
    assert worker.stop() == 0
    assert watched.rows() == []


def test_what_is_away_is_named_and_the_rest_is_still_told(watched: Watched) -> None:
    nowhere = {**watched.place.env, "HEADRACE_POSTGRES": json.dumps({"dsn": "postgresql://nobody@127.0.0.1:9/none"})}
    ran = run_headrace("status", "--lane", watched.place.lane, "--json", environment=nowhere)
    (found,) = ran.objects
    assert ran.code == 1 and found["parts"]["postgres"]["ok"] is False and found["parts"]["kafka"]["ok"] is True
    assert any("postgres is not reachable" in reason for reason in found["down"])
    assert found["dead_letters"] == {"total": 0, "open_at_most": None}
    assert "dead letters: not known" in run_headrace("status", "--lane", watched.place.lane, environment=nowhere).out
    assert "nobody" not in ran.out + ran.err
    top = run_headrace("top", "--once", "--lane", watched.place.lane, "--json", environment=nowhere)
    assert top.code == 1 and "postgres" in top.objects[0]["faults"]
    assert found["stages"][0]["inputs"][0]["topics"] == [topic_name("", watched.place.lane, "requests")]


def _on_a_terminal(watched: Watched) -> tuple[int, str]:
    """``headrace top`` on a pseudo-terminal, ended with q once it has drawn a table."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "streams", "top", "--interval", "0.3", "--lane", watched.place.lane],
        env={**os.environ, **watched.place.env, "TERM": "xterm", "COLUMNS": "200", "LINES": "40"},
        cwd=ROOT,
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    text, asked = "", False
    try:
        while True:
            try:
                given = os.read(main, 65_536)
            except OSError:
                # The other end is closed.
                break
            if not given:
                break
            text += given.decode("utf-8", "replace")
            if not asked and "filter" in text:
                os.write(main, b"q")
                asked = True
        return process.wait(120), text
    finally:
        process.kill()
        process.wait()
        os.close(main)
