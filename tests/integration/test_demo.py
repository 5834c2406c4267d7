"""``headrace demo`` from an empty folder to answers, and everything stopped again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded import stack as embedded
from streams.demo.questions import QUESTIONS

ROOT = Path(__file__).parents[2]
LIMIT_S = 580


@pytest.fixture
def folder() -> Iterator[Path]:
    # Short, because a socket's path is limited; open, because Postgres may run as another user.
    made = Path(tempfile.mkdtemp(prefix="hr-demo-"))
    made.chmod(0o755)
    yield made
    embedded.down(made)
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.stack
@pytest.mark.timeout(LIMIT_S + 20)
def test_the_demo_answers_from_an_empty_folder_loses_nothing_and_leaves_nothing_running(folder: Path) -> None:
    # Ten are what the demonstration asks at least; the rest would only take time here.
    (folder / "questions.txt").write_text("\n".join(QUESTIONS[:10]), encoding="utf-8")
    options = ["--json", "--down", "--folder", str(folder), "--questions", "questions.txt"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    done = subprocess.run(
        [sys.executable, "-m", "streams", "demo", *options],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert len(done.stdout.splitlines()) == 1
    found = json.loads(done.stdout)
    assert found["requests"] == 10
    assert found["lost"] == 0
    assert found["answered"] + found["rejected"] + found["failed"] == found["requests"]
    assert found["answered"] >= found["requests"] // 2
    assert set(found["stages"]) == {"admit", "enrich", "complete", "filter"}
    assert found["latency_ms"]["p50"] > 0
    assert found["tokens"]["prompt"] > found["tokens"]["completion"] > 0
    assert found["citations_per_answer"] >= 1
    assert all(found["versions"].values()), found["versions"]
    assert "79 documents" in done.stderr
    assert "headrace demo" in done.stderr
    assert not embedded.status(folder).running
