"""Our own schemas keep the house rules, live with every released version, and are what the Python types say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from schemas.compat import check_today
from schemas.files import event_schemas
from schemas.generate import RECORDS, render
from schemas.house import NAMESPACE
from schemas.records import EVENTS


def test_no_finding_on_todays_schemas() -> None:
    assert [str(finding) for finding in check_today()] == []


def test_every_event_has_a_schema_and_a_type() -> None:
    assert sorted(kind.AVRO_NAME for kind in EVENTS) == sorted(event_schemas())
    asked = "Request Admitted Enrichment Completion Delta Answer Chunk"
    beside = "Evaluation Feedback Cost Document Alert DeadLetter Control"
    assert set(event_schemas()) == {f"{NAMESPACE}.{name}" for name in f"{asked} {beside}".split()}


def test_the_python_types_are_those_that_the_schemas_generate(tmp_path: Path) -> None:
    for name, source in render().items():
        (tmp_path / name).write_text(source)
    config = str(Path(__file__).parents[2] / "pyproject.toml")
    for command in (["check", "--fix", "--quiet", "--exit-zero"], ["format", "--quiet"]):
        arguments = [sys.executable, "-m", "ruff", *command, "--config", config, str(tmp_path)]
        subprocess.run(arguments, check=True)

    generated = {path.name: path.read_text() for path in tmp_path.glob("*.py")}
    assert generated == {path.name: path.read_text() for path in RECORDS.glob("*.py")}
