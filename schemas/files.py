"""The schema files: today's, and those of every released version."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
TODAY = HERE / "avro"
RELEASED = HERE / "released"


def event_schemas(folder: Path = TODAY) -> dict[str, str]:
    """Every event's schema in a folder, as JSON on one line, by full name and in the order of the files.

    This text is what is registered, so that reformatting a file does not make another version.
    """
    loaded = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.avsc")))
    return {f"{schema['namespace']}.{schema['name']}": json.dumps(schema) for schema in loaded}


def released_versions() -> dict[str, Path]:
    """The folder of every released version, oldest first."""
    folders = [path for path in RELEASED.glob("*") if path.is_dir()] if RELEASED.is_dir() else []
    return {path.name: path for path in sorted(folders, key=lambda path: _order(path.name))}


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
