"""A stream as its consumer sees it: the text rebuilt from chunks, in whatever order and however often they come."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from schemas.codec import Codec
from schemas.errors import PoisonError
from schemas.records import Answer, Chunk, Failure
from streams.answers import decoded
from streams.claims import BlockingClaims
from streams.reading import POLL_S, Entry, Place, Stretch, TopicReader
from streams.settings import Settings
from streams.topics import consumer_topic

# An answer may be this much older than the first chunk that is kept: clocks differ, segments go as a whole.
MARGIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a chunk changed: ``text`` to be added, after a ``restart`` to nothing; ``ended`` when no more comes."""

    text: str = ""
    restart: bool = False
    ended: bool = False


class StreamText:
    """One request's text. The rules are in ``docs/streaming.md``; a consumer in another language follows the same.

    The latest attempt counts, and within it chunks in order of ``sequence``. ``end`` says how many there are. The
    first ``end`` or ``failed`` of a stream is its last word.
    """

    def __init__(self) -> None:
        self.attempt = -1
        self.finish_reason: str | None = None
        self.failure: Failure | None = None
        self.ended = False
        self._texts: dict[int, str] = {}
        self._shown = 0
        self._count: int | None = None

    @property
    def text(self) -> str:
        """What is there without a gap."""
        return "".join(self._texts[number] for number in range(self._shown))

    def add(self, chunk: Chunk) -> Shown:
        """Take the next chunk from the topic."""
        if self.ended or chunk.attempt < self.attempt:
            return Shown()
        if chunk.kind == "failed":
            self.ended, self.failure = True, chunk.failure
            return Shown(ended=True)
        restart = self._attempt(chunk.attempt)
        if chunk.kind == "text" and chunk.text is not None:
            self._texts.setdefault(chunk.sequence, chunk.text.inline or "")
        elif chunk.kind == "end":
            self._count, self.finish_reason = chunk.sequence, chunk.finish_reason
        first = self._shown
        while self._shown in self._texts:
            self._shown += 1
        self.ended = self._count is not None and self._shown >= self._count
        fresh = "".join(self._texts[number] for number in range(first, self._shown))
        return Shown(text=fresh, restart=restart, ended=self.ended)

    def _attempt(self, attempt: int) -> bool:
        """Begin anew where the chunk is of a later attempt; whether something that was shown is void by that."""
        if attempt == self.attempt:
            return False
        void = self._shown > 0
        self.attempt, self._shown, self._count = attempt, 0, None
        self._texts.clear()
        return void


class ChunkReader:
    """Chunks, and answers if wanted, of one request as they come. Blocking; use it in a ``with`` block."""

    def __init__(
        self,
        settings: Settings,
        codec: Codec,
        *,
        lane: str,
        from_start: bool,
        answers: bool,
        tenant: str | None = None,
    ) -> None:
        """Stands at the topics' ends, or their beginnings, once it is made: the tenant's own, where it has some.

        Answers are kept for longer than chunks: their beginning is where the chunks have theirs.
        Raises ``DependencyDownError``, and ``ConfigurationError`` for a lane that has no topics.
        """
        self._codec, self._claims = codec, BlockingClaims(settings, codec)
        self._reader = TopicReader(settings)
        kinds = ("chunks", "answers") if answers else ("chunks",)
        topics = {kind: consumer_topic(settings, lane, kind, tenant) for kind in kinds}
        try:
            ends = self._reader.ends(self._reader.places(list(topics.values())))
            self._ends = {place: one.end for place, one in ends.items()}
            self._history = ends if from_start else {}
            kept_ms = settings.retention.resolved().topic_ms("chunks")
            if from_start and answers and kept_ms >= 0:
                self._history = ends | self._later(topics["answers"], ends, timedelta(milliseconds=kept_ms))
            self._reader.start(self._ends)
        except BaseException:
            self._reader.close()
            raise

    def _later(self, topic: str, ends: Mapping[Place, Stretch], kept: timedelta) -> dict[Place, Stretch]:
        """The answers whose chunks may be there."""
        places = [place for place in ends if place[0] == topic]
        starts = self._reader.offsets_at(places, datetime.now(UTC) - kept - MARGIN)
        return {place: Stretch(starts[place], ends[place].end) for place in places}

    @property
    def reads_history(self) -> bool:
        """Whether what came is from before the reader was made."""
        return bool(self._history)

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def read(self, request_id: str, *, tenant: str | None, deadline: float) -> Iterator[Chunk | Answer | None]:
        """What was there of the request, then what comes until the monotonic time ``deadline``.

        None whenever nothing came for a while, and once what was there is read, however long that took. ``tenant``:
        another tenant's events under the same id are left out.
        """
        key = request_id.encode()
        if self._history:
            for entry in self._reader.read(self._history, wanted=lambda found: found == key):
                yield from self._records([entry], tenant)
            self._history = {}
            self._reader.start(self._ends)
            yield None
        while (left := deadline - time.monotonic()) > 0:
            entries = self._reader.poll(min(POLL_S, left), wanted=lambda found: found == key)
            yield from self._records(entries, tenant)
            if not entries:
                yield None

    def _records(self, entries: Iterable[Entry], tenant: str | None) -> Iterator[Chunk | Answer]:
        for entry in entries:
            record = self._record(entry)
            if record is not None and (tenant is None or record.meta.tenant == tenant):
                yield record

    def _record(self, entry: Entry) -> Chunk | Answer | None:
        try:
            record = decoded(self._codec, entry.value)
        except PoisonError:
            return None
        return self._claims.whole(record, entry.value or b"") if isinstance(record, Chunk | Answer) else None
