"""Reading everything that was named: files in this process or a child, pages in a child, several at a time."""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from schemas.records import Document
from streams.loading.converter import Converters
from streams.loading.kinds import CONVERTED, SUPPORTED, kind_of_file
from streams.loading.lines import documents_of_lines
from streams.loading.parts import documents_of
from streams.loading.record import LoadedFile, Owner, Problem, Reading, UnreadableError
from streams.loading.sources import Source, find_sources
from streams.loading.text import decode, read_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one file or page may take. Sizes are in bytes, as on disk or, of a page, as unpacked."""

    max_bytes: int = 100_000_000
    timeout_s: float = 120.0
    allow_private: bool = False
    # Files that are converted at a time, each in a process of its own.
    jobs: int = 2


def load(given: Iterable[str | Path], owner: Owner, bounds: Bounds | None = None) -> Iterator[LoadedFile]:
    """Read what is named, folders recursively; see ``load_sources``."""
    found = find_sources(given)
    for problem in found.problems:
        yield LoadedFile(path=problem.file, problems=(problem,))
    yield from load_sources(found.sources, owner, bounds)


def load_sources(sources: Iterable[Source], owner: Owner, bounds: Bounds | None = None) -> Iterator[LoadedFile]:
    """Read the sources in their order. Blocks on files, pages and conversion; raises nothing for their content.

    A document whose id an earlier one of this call has is a problem: it would replace it.
    """
    bounds = bounds or Bounds()
    seen: dict[str, str] = {}
    with Converters(bounds.jobs) as converters, ThreadPoolExecutor(bounds.jobs) as threads:
        read = _Reader(owner, bounds, converters).read
        ahead: deque[Future[_Read]] = deque()
        for source in sources:
            ahead.append(threads.submit(read, source))
            if len(ahead) > 2 * bounds.jobs:
                yield _loaded(ahead.popleft().result(), seen)
        while ahead:
            yield _loaded(ahead.popleft().result(), seen)


@dataclass(slots=True)
class _Read:
    """What one source gave, before its ids are compared with others'."""

    name: str
    whole: bool = False
    documents: list[tuple[int | None, Document]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one source. Called from several threads."""

    owner: Owner
    bounds: Bounds
    converters: Converters

    def read(self, source: Source) -> _Read:
        found = _Read(source.name)
        try:
            source.name.encode()
            self._read(source, found)
        except UnicodeEncodeError:
            printable = source.name.encode("utf-8", "backslashreplace").decode()
            error = UnreadableError("has a name that is not UTF-8", "rename it")
            return _Read(printable, problems=[error.at(printable)])
        except UnreadableError as error:
            found.problems.append(error.at(source.name))
        return found

    def _read(self, source: Source, found: _Read) -> None:
        if source.url is not None:
            job = {
                "url": source.url,
                "max_bytes": self.bounds.max_bytes,
                "timeout_s": self.bounds.timeout_s,
                "allow_private": self.bounds.allow_private,
            }
            self._keep(found, self.converters.convert(job, timeout_s=self.bounds.timeout_s))
            return None
        assert source.path is not None
        kind = kind_of_file(source.path)
        if kind is None:
            # What is not there is no file of any kind.
            _check_file(source.path, self.bounds.max_bytes)
            raise UnreadableError("files of this kind are not read", f"give one of {', '.join(SUPPORTED)}")
        modified_at = _check_file(source.path, self.bounds.max_bytes)
        if kind in CONVERTED:
            job = {"path": str(source.path.resolve()), "kind": kind, "max_bytes": self.bounds.max_bytes}
            reading = self.converters.convert(job, timeout_s=self.bounds.timeout_s)
        elif kind == "lines":
            return self._lines(found, decode(_bytes(source.path)), modified_at)
        else:
            reading = read_text(_bytes(source.path), kind, name=source.path.stem)
        self._keep(found, replace(reading, uri=f"file:{source.name}", modified_at=modified_at))
        return None

    def _keep(self, found: _Read, reading: Reading) -> None:
        found.whole = True
        found.documents = [(None, document) for document in documents_of(reading, found.name, self.owner)]

    def _lines(self, found: _Read, text: str, modified_at: datetime) -> None:
        for number, line in documents_of_lines(text, found.name, modified_at, self.owner):
            if isinstance(line, UnreadableError):
                found.problems.append(line.at(found.name, number))
            else:
                found.documents.append((number, line))


def _loaded(read: _Read, seen: dict[str, str]) -> LoadedFile:
    """The documents whose ids are new; the others are problems, and spoil a text that stands or falls as a whole."""
    documents, problems = [], list(read.problems)
    for line, document in read.documents:
        first = seen.get(document.document_id)
        if first is None:
            documents.append(document)
            seen[document.document_id] = read.name if line is None else f"{read.name}, line {line}"
            continue
        what = f"the id {document.document_id!r} was used before, in {first}"
        problems.append(UnreadableError(what, "give every document an id of its own").at(read.name, line))
    if read.whole and problems:
        documents = []
    problems.sort(key=lambda problem: problem.line or 0)
    return LoadedFile(path=read.name, documents=tuple(documents), problems=tuple(problems), whole=read.whole)


def _check_file(path: Path, max_bytes: int) -> datetime:
    """When the file last changed; refuses what is no file or too large, before anything of it is read."""
    try:
        found = path.stat()
    except OSError as error:
        raise UnreadableError(f"can't be read: {error.strerror}", "check the path and its permissions") from None
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableError("is no file but a pipe, socket or device", "give a file")
    if found.st_size > max_bytes:
        raise UnreadableError(f"has {found.st_size} bytes, more than {max_bytes}", "raise --max-mb, or split it")
    return datetime.fromtimestamp(found.st_mtime, UTC)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"can't be read: {error.strerror}", "check the path and its permissions") from None
