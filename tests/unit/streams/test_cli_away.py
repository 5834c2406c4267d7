"""What the command line says about itself, and where nobody has started the embedded stack."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest

from schemas.errors import DependencyDownError
from streams.cli.away import explain
from tests.support.commands import run_headrace

# The port of nobody: it is reserved, and no server listens there.
NOWHERE = "127.0.0.1:1"


def never_restarted(folder: Path) -> Path:
    """A folder as a stack that was stopped leaves it."""
    endpoints = {
        "kafka_bootstrap": NOWHERE,
        "registry_url": f"http://{NOWHERE}",
        "postgres_dsn": f"postgresql://postgres@{NOWHERE}/headrace",
        "embeddings_url": f"http://{NOWHERE}/v1",
        "embeddings_model": "m",
        "embedding_dimension": 3,
        "model_url": f"http://{NOWHERE}/v1",
        "model_name": "m",
    }
    state = {"folder": str(folder), "endpoints": endpoints, "components": []}
    (folder / "stack.json").write_text(json.dumps(state))
    return folder


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}


def test_the_version_is_told() -> None:
    ran = run_headrace("--version", environment=environment())
    assert (ran.code, ran.out) == (0, f"headrace {version('headrace')}\n")


@pytest.mark.parametrize("form", ["--folder {}", "--folder={}"])
def test_a_command_without_a_stack_says_how_to_start_it(tmp_path: Path, form: str) -> None:
    folder = never_restarted(tmp_path)
    ran = run_headrace("costs", *form.format(folder).split(" "), environment=environment())
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith("headrace: postgres is not reachable: ")
    assert ran.err.endswith(f"\nno stack runs in {folder}; start one with: headrace up --folder {folder}\n")


def test_status_names_the_folder_too(tmp_path: Path) -> None:
    folder = never_restarted(tmp_path)
    ran = run_headrace("status", "--folder", str(folder), environment=environment())
    assert ran.code == 1
    assert f"start one with: headrace up --folder {folder}" in ran.out


def test_an_external_stack_is_not_told_to_start_the_embedded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "headrace.toml"
    settings.write_text(
        f"""stack = "external"
[kafka]
bootstrap = "{NOWHERE}"
[registry]
url = "http://{NOWHERE}"
[postgres]
dsn = "postgresql://postgres@{NOWHERE}/headrace"
[embeddings]
base_url = "http://{NOWHERE}/v1"
model = "m"
dimension = 3
[deployments.main]
base_url = "http://{NOWHERE}/v1"
model = "m"
[routes.default]
deployment = "main"
"""
    )
    monkeypatch.setenv("HEADRACE_CONFIG", str(settings))
    error = DependencyDownError("postgres", "connection refused")
    assert explain(error, ["costs"]) == "postgres is not reachable: connection refused"
