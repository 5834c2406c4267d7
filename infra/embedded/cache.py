"""The cache folder that all checkouts on a machine share, written atomically."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.embedded.errors import StackError


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/headrace`` or ``~/.cache/headrace``; made when missing. Raises StackError if it can't be."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(root) if root else Path.home() / ".cache") / "headrace"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise StackError(f"no cache folder for downloads: {error}; set XDG_CACHE_HOME to a writable folder") from error
    return folder


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """A new temporary folder on the same file system as ``target``, removed afterwards with what is left in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".staging-") as folder:
        yield Path(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``. Blocks while another process holds it; a dead holder's lock is free."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the lock if nobody does; yields whether it was got."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
