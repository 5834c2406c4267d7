"""Opening entries while something is away: less is shown, or nothing is passed over."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

import streams.opened
from processors.claimcheck import ref_of
from schemas.codec import Codec
from schemas.errors import DependencyDownError, UnknownSchemaError
from schemas.records import Request, Text
from streams.claims import BlockingClaims
from streams.opened import Opener
from streams.reading import Entry
from tests.support.recorded import answered

START = datetime(2026, 5, 1, tzinfo=UTC)
CODEC = Codec.offline()


class Registry:
    """A codec that does not know a schema until the registry answers."""

    def __init__(self) -> None:
        self.away, self.learned, self.asked = True, False, 0

    def decode_any(self, data: bytes) -> Any:
        if not self.learned:
            raise UnknownSchemaError(7)
        return CODEC.decode_any(data)

    async def fetch(self, _schema_id: int) -> None:
        self.asked += 1
        if self.away:
            raise DependencyDownError("registry", "connection refused")
        self.learned = True


class Away(BlockingClaims):
    """Bodies that can't be had."""

    def __init__(self) -> None:
        pass

    def whole(self, record: Any, value: bytes) -> Any:
        raise DependencyDownError("postgres", "connection refused")


def entry() -> Entry:
    request = answered("live", "r1", START)["requests"]
    assert isinstance(request, Request)
    parted = replace(request, query=Text(ref=ref_of(b"long")))
    return Entry("live.requests", 0, 0, START, b"r1", CODEC.encode(parted), ())


def opener(codec: Any, *, complete: bool, claims: BlockingClaims | None = None) -> Opener:
    return Opener(codec, prefix="", lane="live", claims=claims, complete=complete)


def test_whoever_needs_all_hears_that_the_registry_is_away_and_reads_all_once_it_is_back() -> None:
    registry = Registry()
    needed = opener(registry, complete=True)
    for _ in range(2):
        with pytest.raises(DependencyDownError):
            needed.open(entry())
        with pytest.raises(DependencyDownError):
            needed.record_of(entry().value or b"")
    registry.away = False
    assert needed.open(entry()).fault is None


def test_whoever_shows_what_there_is_asks_a_registry_that_was_away_again(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    shown = opener(registry, complete=False)
    assert "registry is not reachable" in (shown.open(entry()).fault or "")
    # It is not asked for each record.
    assert shown.open(entry()).fault is not None and registry.asked == 1
    registry.away = False
    later = streams.opened.time.monotonic() + streams.opened.AGAIN_S
    monkeypatch.setattr(streams.opened.time, "monotonic", lambda: later)
    assert shown.open(entry()).fault is None


def test_whoever_needs_all_hears_that_the_texts_are_away() -> None:
    with pytest.raises(DependencyDownError):
        opener(CODEC, complete=True, claims=Away()).open(entry())
    shown = opener(CODEC, complete=False, claims=Away()).open(entry())
    assert shown.fault is None and isinstance(shown.record, Request)
