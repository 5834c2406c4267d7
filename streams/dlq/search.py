"""Finding dead letters: by id at once, by filters in one pass over a stretch of their topic, in bounded memory."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Literal

from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams.claims import BlockingClaims
from streams.dlq.letter import Letter, letter_of
from streams.dlq.state import UNTOUCHED, LetterStates, Status
from streams.opened import Opened, Opener
from streams.reading import Entry, Place, Stretch, TopicReader
from streams.settings import Settings
from streams.topics import topic_name

KIND = "dead-letters"
Wanted = Literal["open", "retried", "dropped", "all"]
WANTED: tuple[Wanted, ...] = ("open", "retried", "dropped", "all")
# Letters that are asked for in one query, and letters among which copies are recognised.
BATCH = 200
REMEMBERED = 200_000
_ID = re.compile(r"(\d{1,9})-(\d{1,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters are wanted. ``since`` and ``until`` are times of the letter by the broker."""

    error_class: str | None = None
    stage: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    state: Wanted = "open"

    @property
    def narrow(self) -> bool:
        """Whether it leaves any letter out by itself."""
        return any((self.error_class, self.stage, self.tenant, self.since, self.until))

    def takes(self, letter: Letter) -> bool:
        """Whether the letter itself passes, whatever was done with it."""
        wanted = ((self.error_class, letter.error_class), (self.stage, letter.stage), (self.tenant, letter.tenant))
        return all(expected is None or expected == found for expected, found in wanted)

    def takes_state(self, status: Status) -> bool:
        """Whether what was done with it passes. An interrupted retry counts as open."""
        if self.state == "all":
            return True
        return status.pending if self.state == "open" else status.state == self.state


@dataclass(frozen=True, slots=True)
class Found:
    """A letter with what was done with it; ``opened`` only where it was asked for by id or for a retry."""

    letter: Letter
    status: Status
    opened: Opened | None = None


class LetterSearch:
    """Reads a lane's dead letters. Blocks on the broker, on Postgres, and on the registry for unknown schema ids.

    Raises ``ConfigurationError`` for a lane without the topic or an id that is none, ``DependencyDownError``.
    """

    def __init__(
        self, settings: Settings, reader: TopicReader, codec: Codec, states: LetterStates, *, lane: str
    ) -> None:
        self._reader, self._states = reader, states
        self._topic = topic_name(settings.prefix, lane, KIND)
        self._opener = Opener(codec, prefix=settings.prefix, lane=lane, claims=BlockingClaims(settings, codec))

    def stretches(self, wanted: Filter) -> dict[Place, Stretch]:
        """Where to look: from and until the filter's times, and no further than the topic's end is now."""
        ends = self._reader.ends(self._reader.places([self._topic]))
        starts = self._reader.offsets_at(ends, wanted.since) if wanted.since else {}
        stops = self._reader.offsets_at(ends, wanted.until) if wanted.until else {}
        return {
            place: Stretch(starts.get(place, whole.start), min(whole.end, stops.get(place, whole.end)))
            for place, whole in ends.items()
        }

    def matching(self, wanted: Filter, within: Mapping[Place, Stretch], *, opened: bool = False) -> Iterator[Found]:
        """The letters that pass, in order of offset; each once.

        A copy of a letter is left out where the first one was among the last 200,000. ``opened`` keeps a letter's
        bytes.
        """
        entries = self._reader.read(within)
        for batch in _batches(self._passing(entries, wanted), 1 if opened else BATCH):
            statuses = self._states.of([letter for letter, _ in batch])
            for letter, one in batch:
                status = statuses.get(letter.key, UNTOUCHED)
                if wanted.takes_state(status):
                    yield Found(letter, status, one if opened else None)

    def one(self, letter_id: str) -> Found:
        """The letter with this id. Raises ``ConfigurationError`` where there is none."""
        match = _ID.fullmatch(letter_id)
        if match is None:
            raise ConfigurationError(f"{letter_id!r} is no letter's id; `headrace dlq list` shows them, e.g. 0-17")
        place, offset = (self._topic, int(match[1])), int(match[2])
        if int(match[1]) >= self._reader.counts([self._topic])[self._topic]:
            raise self._missing(letter_id)
        whole = self._reader.ends([place])[place]
        if not whole.start <= offset < whole.end:
            raise self._missing(letter_id)
        entry = next(iter(self._reader.read({place: Stretch(offset, offset + 1)})), None)
        if entry is None:
            raise self._missing(letter_id)
        opened = self._opener.open(entry)
        letter = letter_of(opened)
        return Found(letter, self._states.of([letter]).get(letter.key, UNTOUCHED), opened)

    def _missing(self, letter_id: str) -> ConfigurationError:
        return ConfigurationError(f"there is no letter {letter_id} in {self._topic}; it may be past its retention")

    def _passing(self, entries: Iterable[Entry], wanted: Filter) -> Iterator[tuple[Letter, Opened]]:
        seen: OrderedDict[str, None] = OrderedDict()
        for entry in entries:
            opened = self._opener.open(entry)
            letter = letter_of(opened)
            if letter.key in seen or not wanted.takes(letter):
                continue
            seen[letter.key] = None
            if len(seen) > REMEMBERED:
                seen.popitem(last=False)
            yield letter, opened


def _batches(pairs: Iterator[tuple[Letter, Opened]], size: int) -> Iterator[Sequence[tuple[Letter, Opened]]]:
    while batch := list(islice(pairs, size)):
        yield batch
