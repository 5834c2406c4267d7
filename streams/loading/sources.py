"""What is to be read: the files and pages that were named, and the files of the folders that were named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from schemas.errors import ConfigurationError
from streams.loading.kinds import kind_of_file
from streams.loading.record import Problem

# What a page counts in a progress bar: its size is not known before it is read.
PAGE_WEIGHT = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file or one page. ``name`` is what its documents go by; ``size`` in bytes."""

    name: str
    path: Path | None = None
    url: str | None = None
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which files of a folder are taken: shell patterns for a file's name, or its path below the folder.

    No ``include`` takes every kind of file that is read. ``exclude`` wins, and leaves whole folders out as well.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    hidden: bool = False

    def takes(self, relative: str) -> bool:
        """Whether a file is taken."""
        if self.leaves_out(relative):
            return False
        return _matches(relative, self.include) if self.include else kind_of_file(relative) is not None

    def leaves_out(self, relative: str) -> bool:
        """Whether a file or folder is left out with all that is in it."""
        name = relative.rpartition("/")[2]
        return (name.startswith(".") and not self.hidden) or _matches(relative, self.exclude)


@dataclass(slots=True)
class Found:
    """The sources in a stable order, each once, and what could not be looked at."""

    sources: list[Source] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    # Files in folders that nothing was done with, because their kind is not read.
    passed_over: int = 0


def find_sources(given: Iterable[str | Path], selection: Selection | None = None) -> Found:
    """Every file and page to read.

    A file in or below the working directory is named relative to it, another one relative to the folder above the
    path given; so the same file has the same name whether it or its folder was named. Blocks on the file system.
    Links to folders are not followed, so there are no loops; of several links to a file one is read. Raises
    ``ConfigurationError`` for an address that is not http or https.
    """
    found, seen = Found(), set[str]()
    for argument in given:
        url = _url(str(argument))
        if url is not None:
            if url not in seen:
                seen.add(url)
                found.sources.append(Source(name=url, url=url, size=PAGE_WEIGHT))
            continue
        path = Path(argument)
        for each in _walk(path, selection or Selection(), found) if path.is_dir() else (path,):
            real = str(each.resolve())
            if real not in seen:
                seen.add(real)
                found.sources.append(Source(name=_name(each, path), path=each, size=_size(each)))
    return found


def _url(argument: str) -> str | None:
    """The address without its fragment; ``None`` for a path."""
    scheme, separator, rest = argument.partition("://")
    if not separator or not scheme.replace("+", "").isalnum():
        return None
    if scheme.lower() not in ("http", "https"):
        todo = "give the path itself" if scheme.lower() == "file" else "give a path, or an http or https address"
        raise ConfigurationError(f"{scheme}:// is not read; {todo}")
    parts = urlsplit(f"{scheme.lower()}://{rest}")
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host:
        raise ConfigurationError("an address has no valid host; correct it")
    if parts.username is not None or parts.password is not None:
        # It would become the document's id.
        raise ConfigurationError(f"the address of {host} holds a user or password; leave it out")
    return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", parts.query, ""))


def _walk(top: Path, selection: Selection, found: Found) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        name = error.filename or str(top)
        found.problems.append(
            Problem(file=str(name), what=f"can't be looked into: {error.strerror}", todo="check its permissions")
        )

    for folder, folders, names in os.walk(top, onerror=unreadable):
        below = Path(folder).relative_to(top).as_posix()
        prefix = "" if below == "." else f"{below}/"
        folders[:] = sorted(name for name in folders if not selection.leaves_out(prefix + name))
        for name in sorted(names):
            path = Path(folder) / name
            if not selection.takes(prefix + name) or not _is_file_or_broken(path):
                found.passed_over += not selection.leaves_out(prefix + name)
                continue
            yield path


def _is_file_or_broken(path: Path) -> bool:
    """False for what would block or never end when read: pipes, sockets and devices. A broken link is told of."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    name = relative.rpartition("/")[2]
    return any(fnmatchcase(name, pattern) or fnmatchcase(relative, pattern.rstrip("/")) for pattern in patterns)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _name(path: Path, given: Path) -> str:
    """The path relative to the working directory, else to the folder above what was given; ``/`` on every system."""
    absolute, here = path.resolve(), Path.cwd().resolve()
    base = here if absolute.is_relative_to(here) else given.resolve().parent
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else absolute.name
