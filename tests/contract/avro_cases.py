"""The shared Avro cases: where they are, and how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[3] / "shared" / "data" / "avro" / "public"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared Avro cases are not beside the checkout")


def lines(name: str) -> list[dict[str, Any]]:
    """The cases of a JSON-lines file; none where the data is absent."""
    path = DATA / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def files(pattern: str) -> list[Path]:
    """The case files that match, in order."""
    return sorted(DATA.glob(pattern))


def case_id(case: object) -> str | None:
    """The name a case is reported under."""
    if isinstance(case, dict):
        return str(case["id"])
    return case.name if isinstance(case, Path) else None
