"""The line of a TOML file that sets a field, so that an error can name it.

``tomllib`` keeps no positions. This reads statement by statement and lets ``tomllib`` take each one apart, so that
quoted keys, dotted keys and values over several lines are understood as they are meant.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

Path = tuple[str, ...]

# A value over more lines than this is passed over line by line: only the place of its inner fields is lost.
_LONGEST_VALUE = 200


def line_of(text: str, path: Sequence[str | int]) -> int | None:
    """The line, from 1, of the field, or of the nearest part around it that the file sets; ``None`` without any.

    ``text`` has to be valid TOML. Does not raise.
    """
    wanted = tuple(str(part) for part in path)
    best, length = None, 0
    for line, found in _set(text):
        if len(found) > length and wanted[: len(found)] == found:
            best, length = line, len(found)
    return best


def _set(text: str) -> Iterator[tuple[int, Path]]:
    """Every path that is set, tables included, with its line."""
    table: Path = ()
    lines, number = text.splitlines(), 0
    while number < len(lines):
        stripped = lines[number].strip()
        size = 1
        if stripped.startswith("["):
            table = _path_of(_parsed(stripped) or {})
            yield number + 1, table
        elif stripped and not stripped.startswith("#"):
            size, parsed = _statement(lines, number)
            keys = _path_of(parsed)
            yield from ((number + 1, (*table, *keys[: depth + 1])) for depth in range(len(keys)))
        number += size


def _statement(lines: Sequence[str], first: int) -> tuple[int, dict[str, Any]]:
    """How many lines the assignment takes, and what it sets."""
    for size in range(1, _LONGEST_VALUE + 1):
        parsed = _parsed("\n".join(lines[first : first + size]))
        if parsed is not None:
            return size, parsed
        if first + size >= len(lines):
            break
    return 1, {}


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _path_of(parsed: dict[str, Any]) -> Path:
    """The keys down to the first value that is no table of one entry."""
    path: list[str] = []
    value: Any = parsed
    while isinstance(value, dict) and len(value) == 1:
        [(key, value)] = value.items()
        path.append(key)
    return tuple(path)
