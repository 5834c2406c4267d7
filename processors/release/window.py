"""Where a text that still grows may be cut, so that the filter's cleaning of the pieces is its cleaning of the whole.

A cut stands behind a space or a mark that no masked pattern holds, and only where nothing that may follow can reach
back over it: no digits that more digits would continue, no words like "phone" that would make a number of the digits
behind them. Whether a place is a cut is decided by the text before it alone. So the cuts never depend on when the
pieces of the text arrived, and each piece is cleaned by itself.

A text without such a place is held until it ends; the size of an event bounds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from processors.filter.identifiers import awaits_ssn
from processors.filter.phones import awaits_digits
from processors.filter.tokens import strip_tokens

# Characters. Shorter pieces cost an event each and read no better.
MINIMUM = 24
# No special token and no address holds one of these; a number may hold a space, which is looked at below. The second
# half ends phrases in scripts that are written without spaces.
_SEPARATOR = re.compile(r"[\s\u3001\u3002\u300d\u300f\uff01\uff09\uff0c\uff1a\uff1b\uff1f]")
# Characters before a cut that decide on it, special tokens not counted: the longest pattern's reach and some.
_REACH = 96


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the raw text between two cuts. ``start`` is its first character's place in the text."""

    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class Window:
    """Cuts one text as it grows. Linear in the text; holds what was not yet given out.

    ``minimum``: characters of the shortest piece, the last one aside.
    """

    def __init__(self, *, minimum: int = MINIMUM) -> None:
        self._minimum = minimum
        self._start = 0
        self._held: list[str] = []
        # In what is held: where the last separator ended, and the cleaned characters before it.
        self._seen = 0
        self._tail = ""
        self._length = 0

    @property
    def length(self) -> int:
        """Characters of the text so far."""
        return self._length

    @property
    def given(self) -> int:
        """Characters that were given out."""
        return self._start

    @property
    def held(self) -> int:
        """Characters that wait for a cut."""
        return self._length - self._start

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are ready now that ``text`` has joined the end."""
        if not text:
            return []
        self._held.append(text)
        self._length += len(text)
        if _SEPARATOR.search(text) is None:
            return []
        held = "".join(self._held)
        pieces: list[Piece] = []
        cut = 0
        for place in self._cuts(held):
            pieces.append(Piece(self._start + cut, held[cut:place]))
            cut = place
        self._start += cut
        self._seen -= cut
        self._held = [held[cut:]]
        return pieces

    def finish(self) -> list[Piece]:
        """What is left once the text has ended."""
        held = "".join(self._held)
        if not held:
            return []
        piece = Piece(self._start, held)
        self._start, self._held, self._seen, self._tail = self._length, [], 0, ""
        return [piece]

    def _cuts(self, held: str) -> Iterator[int]:
        cut = 0
        for match in _SEPARATOR.finditer(held, self._seen):
            # Stretches between separators are cleaned of tokens one by one: no token holds a separator.
            self._tail = (self._tail + strip_tokens(held[self._seen : match.end()]).text)[-_REACH:]
            self._seen = match.end()
            if self._seen - cut >= self._minimum and is_cut(self._tail):
                yield self._seen
                cut, self._tail = self._seen, ""


def is_cut(before: str) -> bool:
    """Whether a text that ends in a separator may be cut behind it, by its last characters without special tokens."""
    return not (awaits_digits(before) or awaits_ssn(before))


def pieces(text: str, *, final: bool = True) -> list[Piece]:
    """The pieces of a text; without ``final`` only those that are settled whatever follows."""
    window = Window()
    found = window.feed(text)
    return found + window.finish() if final else found


def cleared(text: str, *, final: bool = False) -> int:
    """How many characters of a raw text may be public, given that it begins like this. Never less for a longer text.

    ``final``: the text has ended, so all of it.
    """
    if final:
        return len(text)
    window = Window()
    window.feed(text)
    return window.given
