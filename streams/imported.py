"""Control records that came with an import, under the offsets by which recorded events name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from streams.headers import IMPORTED
from streams.reading import Entry

# Where a control record lay first: events say under which control offset they were decided.
OFFSET = "headrace-offset"

Pairs = list[tuple[str, bytes | None]]


def with_offset(place: Mapping[str, Any], headers: Pairs) -> Pairs:
    """The headers of a control record that is loaded, with the offset that it had; one that it has already stays."""
    if any(name == OFFSET for name, _ in place["_headers"]):
        return headers
    return [*headers, (OFFSET, str(place["_offset"]).encode())]


def as_recorded(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Control entries in order, those that were imported under their first offsets, and later ones behind them."""
    last = -1
    for entry in entries:
        named = dict(entry.headers)
        said = (named.get(OFFSET) or b"") if IMPORTED in named else b""
        offset = max(last + 1, int(said) if said.isdigit() else entry.offset)
        last = offset
        yield entry if offset == entry.offset else replace(entry, offset=offset)
