"""Pages for a browser, written to a file."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.errors import ConfigurationError


def check_folder(path: Path | None) -> None:
    """Raise ``ConfigurationError`` where the folder of a page is not there, before the work for it is done."""
    if path is not None and not path.absolute().parent.is_dir():
        raise ConfigurationError(f"--html: the folder {path.absolute().parent} is not there; make it first")


def write_whole(page: str, path: Path) -> None:
    """Write a page: whole or not at all. Raises ``ConfigurationError`` when it can't be written."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(page, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigurationError(f"--html: {path} can't be written: {error.strerror}") from None
