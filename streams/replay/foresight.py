"""What a dry run says of calls whose prompts a stage before them has yet to make: by the enrichments that are recorded.

Of each request the recorded enrichment tells what its call would cost with the passages of then, as an estimate. The
most that it can cost is told by the settings: as many passages as may be retrieved, each as long as the index cuts
them, and no more than the model's context.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType

from processors.bodies import PostgresBodies
from processors.clock import Clock
from processors.enrich.policy import EnrichPolicy
from processors.enrich.stage import searched_for
from processors.event import Incoming
from processors.index.policy import IndexPolicy
from processors.postgres import Database
from processors.prompts import PgPrompts
from schemas.codec import Codec
from schemas.errors import PoisonError, RefusedError
from schemas.records import Admitted, ContentPart, Enrichment, Grounding, Message, Text
from streams.claims import Claims
from streams.ports import enrich_policies
from streams.reading import TopicReader
from streams.replay.calls import Calls, Prepared, calls_of
from streams.replay.changes import changes_for
from streams.replay.events import Events
from streams.replay.plan import source_topics
from streams.replay.rerender import Rerender
from streams.replay.run import Place, Run
from streams.replay.work import batches
from streams.settings import Settings
from streams.stages import STAGES

BATCH = 500
# The longest passage: four bytes a character; and its title, address and number.
PASSAGE_BYTES = IndexPolicy().chunk_chars * 4 + 1_000


class Waiting:
    """Requests whose recorded enrichment is looked for, in a file without a name. Use it in a ``with`` block."""

    def __init__(self) -> None:
        self._file = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._file.execute(
            "CREATE TABLE waiting (request_id TEXT, tenant TEXT, value BLOB, PRIMARY KEY (request_id, tenant))"
        )
        self._file.execute("BEGIN")

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def put(self, tenant: str, request_id: str, value: bytes) -> None:
        """Note a request, as the bytes of the event that its stage will get."""
        self._file.execute("INSERT OR REPLACE INTO waiting VALUES (?, ?, ?)", (request_id, tenant, value))

    def wants_key(self, key: bytes | None) -> bool:
        """Whether some tenant's request of this id is looked for."""
        name = (key or b"").decode("utf-8", "replace")
        return self._file.execute("SELECT 1 FROM waiting WHERE request_id = ?", (name,)).fetchone() is not None

    def take(self, tenant: str, request_id: str) -> bytes | None:
        """The request, which is looked for no more; ``None`` for one that is not."""
        key = (request_id, tenant)
        found = self._file.execute("SELECT value FROM waiting WHERE request_id = ? AND tenant = ?", key).fetchone()
        if found is not None:
            self._file.execute("DELETE FROM waiting WHERE request_id = ? AND tenant = ?", key)
        return None if found is None else found[0]

    def left(self, most: int) -> Iterator[list[bytes]]:
        """What was not taken, so much at a time."""
        cursor = self._file.execute("SELECT value FROM waiting ORDER BY request_id, tenant")
        while rows := cursor.fetchmany(most):
            yield [value for (value,) in rows]


@dataclass(frozen=True, slots=True)
class Foreseen:
    """One request: its call as it would be with the passages of then, and the most that may be asked instead."""

    enrichment: Enrichment
    known: Prepared
    most: Enrichment
    # That may be retrieved.
    passages: int
    recorded: bool


class Foresight:
    """Looks for the recorded enrichments of requests, and prices what would be asked. Buys nothing."""

    def __init__(self, run: Run, settings: Settings, database: Database, codec: Codec, clock: Clock) -> None:
        self._run, self._settings, self._codec = run, settings, codec
        later = changes_for("complete", run.config.sets, first=False)
        self.calls: Calls = calls_of(run, settings, later, database, codec, clock)
        self._prompt = changes_for(run.stages[0], run.config.sets).prompt
        self._policies = enrich_policies(settings)
        self._rerender = Rerender(PgPrompts(database), clock, self._policies)
        claims = Claims(PostgresBodies(database), codec, most_bytes=settings.bodies.max_bytes)
        self._events = Events(run, STAGES["complete"], later, codec, claims, first=False)

    async def look(self, waiting: Waiting, oldest: datetime, tell: Callable[[Foreseen], None]) -> None:
        """Tell of every request that waits. ``oldest``: when the first of them was admitted.

        Blocks on the broker, on Postgres and on the prompt store.
        """
        places = await asyncio.to_thread(self._places, oldest)
        async for batch in batches(self._settings, places, BATCH, waiting.wants_key):
            ready = []
            for entry in batch:
                try:
                    incoming = await self._events.decode(entry)
                except PoisonError:
                    continue
                value = waiting.take(incoming.meta.tenant, incoming.meta.request_id)
                if value is not None:
                    ready.append(await self._as_asked(incoming, value))
            await self._priced(ready, tell, recorded=True)
        for values in waiting.left(BATCH):
            await self._priced([self._unrecorded(value) for value in values], tell, recorded=False)

    def _places(self, oldest: datetime) -> list[Place]:
        topics = source_topics(self._settings, self._run.source_lane, "complete")
        with TopicReader(self._settings) as reader:
            places = reader.places(list(reader.existing(topics)))
            bounds, starts = reader.ends(places), reader.offsets_at(places, oldest)
        return [
            Place(step=0, topic=place[0], partition=place[1], first=first, end=bounds[place].end, next=first)
            for place, first in sorted(starts.items())
            if first < bounds[place].end
        ]

    async def _as_asked(self, incoming: Incoming[Enrichment], value: bytes) -> Incoming[Enrichment]:
        """The recorded enrichment of the request as the run asks it."""
        admitted = self._codec.decode(value, Admitted)
        meta = replace(incoming.meta, lane=self._run.lane, run=self._run.run)
        record = replace(incoming.record, meta=meta, request=admitted.request, admission=admitted.admission)
        if self._prompt is not None:
            try:
                record = await self._rerender(record, self._prompt.name, self._prompt.version)
            except RefusedError:
                # The stage says so when it comes to it.
                record = replace(record, admission=replace(record.admission, route=""))
        return replace(incoming, record=record, meta=meta)

    def _unrecorded(self, value: bytes) -> Incoming[Enrichment]:
        """A request of which nothing is recorded, as if its prompt were as long as the context."""
        admitted = self._codec.decode(value, Admitted)
        policy = self._policies.get(admitted.admission.route, EnrichPolicy())
        grounding = Grounding(
            messages=_filler(policy.context_tokens),
            question=Text(inline=""),
            prompt_tokens_estimate=max(0, policy.context_tokens - policy.answer_tokens),
        )
        record = Enrichment(
            meta=admitted.meta, request=admitted.request, admission=admitted.admission, grounding=grounding
        )
        appended_at = admitted.meta.accepted_at or datetime.min
        return Incoming(record=record, meta=admitted.meta, raw=b"", appended_at=appended_at)

    async def _priced(
        self, batch: Sequence[Incoming[Enrichment]], tell: Callable[[Foreseen], None], *, recorded: bool
    ) -> None:
        for incoming in await self.calls.prepare(batch):
            record = incoming.record
            known = self.calls.prepared[incoming.meta.event_id]
            passages = self._passages(record)
            longest = PASSAGE_BYTES * passages if recorded else 0
            grounding = replace(record.grounding, messages=(*record.grounding.messages, *_filler(longest)))
            tell(Foreseen(record, known, replace(record, grounding=grounding), passages, recorded))

    def _passages(self, record: Enrichment) -> int:
        """How many passages may be retrieved for the request."""
        try:
            return searched_for(record.request, self._policies.get(record.admission.route, EnrichPolicy()))[1]
        except RefusedError:
            return 0


def _filler(characters: int) -> tuple[Message, ...]:
    """A message of so many bytes."""
    if not characters:
        return ()
    return (Message(role="user", content=(ContentPart(type="text", text=Text(inline="x" * characters)),)),)
