"""The next build of Headrace, made from this one: a field more in two schemas, and stages of another version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FIELD = {"name": "built_by", "type": "string", "default": "next", "doc": "Build that wrote it"}
WIDENED = ("completion", "answer")
NEXT_VERSION = "next"


def newer_build(folder: Path) -> Path:
    """A folder to run the next build from, with ``PYTHONPATH``. Its filter's and its model stage's version is ``next``.

    Raises ``AssertionError`` when there is nothing to change any more where it was.
    """
    for name in ("schemas", "processors", "infra", "streams"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in WIDENED:
        path = folder / "schemas" / "avro" / f"{name}.avsc"
        schema = json.loads(path.read_text())
        schema["fields"].append(FIELD)
        path.write_text(json.dumps(schema, indent=1))
    for path in (folder / "processors" / "filter" / "processor.py", folder / "processors" / "complete" / "__init__.py"):
        text = path.read_text()
        assert 'VERSION = "1"' in text, f"{path} has no version to change"
        path.write_text(text.replace('VERSION = "1"', f'VERSION = "{NEXT_VERSION}"'))
    run(folder, "-m", "schemas.generate")
    return folder


def run(build: Path, *arguments: str, **variables: str) -> str:
    """Run Python in a build; what it wrote to stdout."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=build,
        env={**_inherited(), "PYTHONPATH": str(build), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(text: str) -> list[dict[str, Any]]:
    """JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
