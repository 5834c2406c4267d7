"""A file of requests, one a line: checked whole before the first is published, and never held in memory."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from schemas.codec import Codec
from schemas.errors import ConfigurationError, OversizedError, UnencodableError
from schemas.records import Request
from streams.claims import BlockingClaims
from streams.outputs import LARGEST_BYTES, check_size
from streams.request_form import MAX_LINE_BYTES, BadRequestLineError
from streams.requests import parse_request

STDIN = "-"
_BOM = b"\xef\xbb\xbf"
# What a report lists; the rest is counted.
MOST_FAULTS = 50
# So many ids are compared for being given twice; a longer file is still read in flat memory.
_REMEMBERED = 1_000_000

_PIECE_BYTES = 65_536

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank."""

    number: int
    # None: longer than any event may be.
    text: bytes | None
    size: int


@dataclass(slots=True)
class Checked:
    """What a file holds."""

    requests: int = 0
    bad_lines: int = 0
    faults: list[str] = field(default_factory=list)
    longest_ttl_ms: int = 0
    tenants: set[str] = field(default_factory=set)
    end: int = 0


class RequestFile:
    """Reads the same bytes twice. Input that can't be read again, e.g. a pipe, is copied to a temporary file first."""

    def __init__(
        self, source: str, *, tenant: str, lane: str, batch: str | None = None, ttl_ms: int | None = None
    ) -> None:
        """``ttl_ms`` is that of lines which say none.

        Blocks on copying a pipe until it ends. Raises ``ConfigurationError`` for a file that can't be read.
        """
        self.name = "stdin" if source == STDIN else source
        self._tenant, self._lane, self._batch, self._ttl_ms = tenant, lane, batch, ttl_ms
        self._end: int | None = None
        try:
            self._file = _spooled(sys.stdin.buffer) if source == STDIN else _opened(Path(source))
            self.size = self._file.seek(0, 2)
        except OSError as error:
            raise ConfigurationError(f"{self.name} can't be read: {error.strerror or error}") from None

    def __enter__(self) -> RequestFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def check(
        self, codec: Codec, advance: Advance = lambda _: None, *, claims: BlockingClaims | None = None
    ) -> Checked:
        """Check every line, and that each makes an event that its topic takes, with ``claims`` by reference."""
        found, seen = Checked(), set[int]()
        for line in self._lines():
            advance(line.size)
            try:
                request = self._request(line)
                value = codec.encode(request)
                value = value if claims is None else claims.check(request, value, LARGEST_BYTES)
                check_size(value, "the request")
                _check_new(request, seen)
            except BadRequestLineError as error:
                self._report(found, line, error.faults)
            except (UnencodableError, OversizedError) as error:
                self._report(found, line, [str(error)])
            else:
                found.requests += 1
                found.tenants.add(request.meta.tenant)
                found.longest_ttl_ms = max(found.longest_ttl_ms, request.ttl_ms)
        # What is appended from here on was not checked and is not published.
        self._end = found.end = self._file.tell()
        return found

    def requests(self, advance: Advance = lambda _: None) -> Iterator[Request]:
        """The requests of the lines that were checked. Raises ``ConfigurationError`` if they changed meanwhile."""
        for line in self._lines():
            advance(line.size)
            try:
                yield self._request(line)
            except BadRequestLineError as error:
                raise ConfigurationError(
                    f"{self.name}:{line.number}: the file was changed while it was read: {error}"
                ) from None

    def _request(self, line: Line) -> Request:
        if line.text is None:
            raise BadRequestLineError([f"the line has more than {MAX_LINE_BYTES} bytes; shorten it"])
        place = str(line.number)
        return parse_request(
            line.text, tenant=self._tenant, lane=self._lane, batch=self._batch, place=place, ttl_ms=self._ttl_ms
        )

    def _report(self, found: Checked, line: Line, faults: list[str]) -> None:
        found.bad_lines += 1
        room = MOST_FAULTS - len(found.faults)
        found.faults += [f"{self.name}:{line.number}: {fault}" for fault in faults[:room]]

    def _lines(self) -> Iterator[Line]:
        self._file.seek(0)
        number = position = 0
        while (self._end is None or position < self._end) and (text := self._file.readline(MAX_LINE_BYTES + 1)):
            number += 1
            size = len(text)
            oversized = size > MAX_LINE_BYTES
            if oversized:
                size += 0 if text.endswith(b"\n") else self._skip_line()
                text = b""
            position += size
            if number == 1:
                text = text.removeprefix(_BOM)
            if oversized or text.strip():
                yield Line(number, None if oversized else text, size)

    def _skip_line(self) -> int:
        """Read to the end of the line without keeping it; how much that was."""
        size = 0
        while piece := self._file.readline(_PIECE_BYTES):
            size += len(piece)
            if piece.endswith(b"\n"):
                break
        return size


def _opened(path: Path) -> BinaryIO:
    file = path.open("rb")
    if file.seekable():
        return file
    with file:
        return _spooled(file)


def _spooled(file: BinaryIO) -> BinaryIO:
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the RequestFile
    shutil.copyfileobj(file, copy)
    return copy


def _check_new(request: Request, seen: set[int]) -> None:
    """Two requests under one id would get one answer between them."""
    digest = hash(request.meta.request_id)
    if digest in seen:
        raise BadRequestLineError(["request_id or idempotency_key: is on an earlier line too; give each its own"])
    if len(seen) < _REMEMBERED:
        seen.add(digest)
