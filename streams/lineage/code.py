"""Which code is running: the version of the package, and the commit where that can be known."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
UNKNOWN = "unknown"


@cache
def code_version() -> str:
    """The package's version; ``unknown`` where it was never installed."""
    found = _installed()
    return UNKNOWN if found is None else found.version


@cache
def commit() -> str:
    """The commit that was installed or is checked out, as hex; empty where nobody knows. Reads a few small files."""
    found = _installed()
    said = None if found is None else found.read_text("direct_url.json")
    if said is not None:
        # PEP 610: what was installed from a repository says which commit.
        recorded = json.loads(said).get("vcs_info", {}).get("commit_id", "")
        if _COMMIT.fullmatch(recorded):
            return str(recorded)
    return head_of(Path(__file__).resolve().parents[2])


def head_of(folder: Path) -> str:
    """The commit that a checkout is at; empty for a folder that is none."""
    git = folder / ".git"
    try:
        if git.is_file():
            # A worktree says where its own folder is.
            git = folder / git.read_text("utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text("utf-8").strip()
        if not head.startswith("ref:"):
            return head if _COMMIT.fullmatch(head) else ""
        name = head.removeprefix("ref:").strip()
        common = git / "commondir"
        shared = git / common.read_text("utf-8").strip() if common.is_file() else git
        return _loose(git, name) or _loose(shared, name) or _packed(shared, name)
    except (OSError, UnicodeDecodeError):
        return ""


def _loose(git: Path, name: str) -> str:
    file = git / name
    found = file.read_text("utf-8").strip() if file.is_file() else ""
    return found if _COMMIT.fullmatch(found) else ""


def _packed(git: Path, name: str) -> str:
    file = git / "packed-refs"
    for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
        found, _, named = line.partition(" ")
        if named == name and _COMMIT.fullmatch(found):
            return found
    return ""


def _installed() -> Distribution | None:
    try:
        return distribution("headrace")
    except PackageNotFoundError:
        return None
