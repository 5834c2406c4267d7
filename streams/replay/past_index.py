"""Which index a replay of ``enrich`` searches: today's, the one that each request was enriched from, or as of a time.

An index version names how documents are cut and embedded; what was in it changed with every document. So the recorded
index of a request is that of the moment at which its enrichment was recorded, read from what is kept of the past.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from processors.event import Incoming, Output, Processor
from processors.passages import History, Hit, PassageSearch, Search
from processors.passages_pg import PgPassages
from processors.postgres import Database
from schemas.codec import Codec
from schemas.errors import ConfigurationError, PoisonError
from schemas.records import Enrichment
from streams.reading import Stretch, TopicReader
from streams.replay.changes import IndexChoice
from streams.replay.plan import said, source_topics
from streams.replay.run import Place, Run
from streams.settings import Settings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHOICE = "--set index=recorded-or-today searches today's index for such requests, --set index=today for all"


@dataclass(frozen=True, slots=True)
class Then:
    """What a request was enriched from: the index ``versions`` (several during a change), and when."""

    versions: tuple[str, ...]
    embedding_model: str
    at: datetime
    found_some: bool


class Recorded:
    """The recorded enrichments' indexes by request, in a file without a name."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._file.execute(
            "CREATE TABLE recorded (request_id TEXT, tenant TEXT, versions TEXT, model TEXT, at INTEGER, some INTEGER,"
            " PRIMARY KEY (request_id, tenant)) WITHOUT ROWID"
        )
        self._file.execute("BEGIN")

    def put(self, enrichment: Enrichment, at: datetime) -> None:
        """Note an enrichment that was recorded ``at`` this time; of a request's the first counts."""
        meta, grounding = enrichment.meta, enrichment.grounding
        row = (meta.request_id, meta.tenant, grounding.index_version, grounding.embedding_model)
        micros = (at - _EPOCH) // timedelta(microseconds=1)
        some = bool(grounding.passages)
        self._file.execute("INSERT OR IGNORE INTO recorded VALUES (?, ?, ?, ?, ?, ?)", (*row, micros, some))

    def of(self, tenant: str, request_id: str) -> Then | None:
        """What is recorded of a request."""
        sql = "SELECT versions, model, at, some FROM recorded WHERE request_id = ? AND tenant = ?"
        found = self._file.execute(sql, (request_id, tenant)).fetchone()
        if found is None:
            return None
        versions, model, at, some = found
        return Then(tuple(versions.split()), model, _EPOCH + timedelta(microseconds=at), bool(some))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def read_recorded(reader: TopicReader, settings: Settings, codec: Codec, run: Run, places: Sequence[Place]) -> Recorded:
    """The enrichments of the source lane from the first replayed event on. Blocks on the broker, and costs some 50 µs
    of the processor for each.
    """
    recorded = Recorded()
    oldest = min(_times(reader, places), default=None)
    if oldest is None:
        return recorded
    topics = source_topics(settings, run.source_lane, "complete")
    there = reader.places(list(reader.existing(topics)))
    bounds, starts = reader.ends(there), reader.offsets_at(there, oldest)
    stretches = {one: Stretch(starts[one], bounds[one].end) for one in there if starts[one] < bounds[one].end}
    for entry in reader.read(stretches):
        try:
            recorded.put(codec.decode(entry.value or b"", Enrichment), entry.time)
        except PoisonError:
            # Nor could its stage read it.
            continue
    return recorded


def _times(reader: TopicReader, places: Sequence[Place]) -> Iterator[datetime]:
    bounds = reader.ends([(place.topic, place.partition) for place in places])
    for place in places:
        key = (place.topic, place.partition)
        first = max(place.first, bounds[key].start)
        if first < min(place.end, bounds[key].end):
            yield from (entry.time for entry in reader.read({key: Stretch(first, first + 1)}))


class PastIndex:
    """Decides for each request what is searched, and searches it.

    A request whose index is gone raises ``ConfigurationError`` when it is searched for, which ends the run; with
    ``recorded-or-today`` today's is searched instead.
    """

    def __init__(self, choice: IndexChoice, inner: PassageSearch, history: History, recorded: Recorded | None) -> None:
        self._choice, self._inner, self._history, self._recorded = choice, inner, history, recorded
        self._asking: ContextVar[_Asking | None] = ContextVar("replay_past_index", default=None)

    def found(self, tenant: str, request_id: str, model: str) -> str:
        """What would be searched for a request: its index versions, ``today``, ``gone``, or the time that was chosen.

        ``model``: that embeds now.
        """
        if self._choice.at is not None:
            return f"as of {said(self._choice.at)}"
        then = None if self._recorded is None else self._recorded.of(tenant, request_id)
        if then is None or self._gone(request_id, then, model) is not None:
            return "today" if self._choice.or_today else "gone"
        return " ".join(then.versions)

    async def search(self, search: Search) -> list[Hit]:
        """As any ``PassageSearch``, in the index of the request that is in hand."""
        asking = self._asking.get()
        if asking is None or not self._choice.past:
            return await self._inner.search(search)
        if self._choice.at is not None:
            asking.as_of = self._choice.at
        else:
            reason = self._gone(asking.request_id, asking.then, search.embedding_model)
            if reason is not None and not self._choice.or_today:
                raise ConfigurationError(reason)
            asking.as_of = None if reason is not None or asking.then is None else asking.then.at
        return await self._inner.search(replace(search, as_of=asking.as_of))

    def of_then(self, processor: Processor) -> Processor:
        """The enrich stage over the index of then; what it gives says as of when."""

        async def process(incoming: Incoming[Any]) -> Sequence[Output]:
            with self._asked(incoming) as asking:
                outputs = await processor(incoming)
            return [_told(one, asking) if isinstance(one, Enrichment) else one for one in outputs]

        return process

    @contextmanager
    def _asked(self, incoming: Incoming[Any]) -> Iterator[_Asking]:
        meta = incoming.meta
        then = None if self._recorded is None else self._recorded.of(meta.tenant, meta.request_id)
        asking = _Asking(meta.request_id, then)
        token = self._asking.set(asking)
        try:
            yield asking
        finally:
            self._asking.reset(token)

    def _gone(self, request_id: str, then: Then | None, model: str) -> str | None:
        if then is None or not then.versions:
            why = "no enrichment of it is recorded" if then is None else "its enrichment was not searched for"
            return f"the index version of the request {request_id} is not known, because {why}: {_CHOICE}"
        named = f"the index version {' '.join(then.versions)} of the request {request_id}, as of {said(then.at)},"
        kept = ", ".join(sorted(self._history.versions)) or "none"
        if then.at < self._history.since:
            return (
                f"{named} is gone: what was replaced is kept since {said(self._history.since)} "
                f"(retention.tables.superseded_passages); there are passages of {kept}: {_CHOICE}"
            )
        if then.embedding_model != model:
            return (
                f"{named} was embedded by {then.embedding_model}, and [embeddings] names {model}: set it to "
                f"{then.embedding_model}; or {_CHOICE}"
            )
        if then.found_some and not self._history.versions.issuperset(then.versions):
            return f"{named} is not in this database; there are passages of {kept}: {_CHOICE}"
        return None


@dataclass(slots=True)
class _Asking:
    """A request in hand, and what was searched for it."""

    request_id: str
    then: Then | None
    as_of: datetime | None = None


def _told(record: Enrichment, asking: _Asking) -> Enrichment:
    if asking.as_of is None:
        return record
    grounding = replace(record.grounding, index_as_of=asking.as_of)
    if not grounding.passages and asking.then is not None:
        # Nothing was found that would name it.
        grounding = replace(grounding, index_version=" ".join(asking.then.versions))
    return replace(record, grounding=grounding)


async def past_index(
    choice: IndexChoice,
    reader: TopicReader,
    settings: Settings,
    codec: Codec,
    database: Database,
    run: Run,
    places: Sequence[Place],
    stack: AsyncExitStack,
) -> PastIndex:
    """The index that a run chose. Blocks on Postgres and, for that of each request, on the broker.

    Raises ``ConfigurationError`` for a time from which it is not kept, and for a mirror, whose past is yet to come.
    """
    if run.config.mirror:
        raise ConfigurationError("--set index: a mirror searches today's index; leave it out")
    passages = PgPassages(database)
    history = await passages.history()
    check_kept(choice, history)
    recorded = None
    if choice.recorded:
        recorded = await asyncio.to_thread(read_recorded, reader, settings, codec, run, places)
        stack.callback(recorded.close)
    return PastIndex(choice, passages, history, recorded)


def check_kept(choice: IndexChoice, history: History) -> None:
    """Raise ``ConfigurationError`` for a time from which the index is not kept."""
    if choice.at is not None and choice.at < history.since:
        raise ConfigurationError(
            f"--set index={said(choice.at)}: what was replaced in the index is kept since {said(history.since)} "
            "(retention.tables.superseded_passages); name that or a later time"
        )
