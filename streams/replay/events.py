"""From a record on a topic to the event that a replay gives to a stage: under the run's ids, and never too late."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from processors.claimcheck import MARK
from processors.event import Incoming
from schemas.codec import Codec
from schemas.errors import ConfigurationError, UndecodableError, UnknownSchemaError
from schemas.ids import derive_id
from schemas.record import Record, changed
from schemas.records import Admitted, Completion, Cost, Enrichment, Feedback, Meta
from streams.claims import Claims
from streams.headers import load_timings
from streams.reading import Entry
from streams.replay.changes import Changes, lacking, remedy
from streams.replay.rerender import with_prompt
from streams.replay.run import Run
from streams.stages import Effect, Stage

_ADMITTED = (Admitted, Enrichment, Completion)


class Events:
    """Makes the events of one step. ``first``: its input is the source lane, so ids and fields are changed."""

    def __init__(
        self, run: Run, stage: Stage, changes: Changes, codec: Codec, claims: Claims | None, *, first: bool
    ) -> None:
        self._run, self._stage, self._changes = run, stage, changes
        self._codec, self._claims, self._first = codec, claims, first
        # Feedback is not replayed: what is left has one type.
        [self._record] = {source.record for source in stage.inputs} - {Feedback}
        self._pays = stage.effect is Effect.PAYS
        self._copies = run.copies_books and run.target == "shadow"
        # What rebuilds the books books them as they were.
        self._as_is = run.copies_books and run.target == "live"

    async def decode(self, entry: Entry) -> Incoming[Any]:
        """The event as it was recorded. Blocks for an unknown schema and for texts that are elsewhere.

        Raises ``PoisonError`` for what can't be read, and ``DependencyDownError``.
        """
        if entry.value is None:
            raise UndecodableError("the event has a null value")
        record = await self._decoded(entry.value)
        if self._claims is not None and MARK in entry.value:
            meta: Meta = record.meta  # type: ignore[attr-defined]
            record = await self._claims.whole(record, entry.value, meta.tenant)
        return _incoming(entry, entry.value, record)

    def at_hand(self, entry: Entry) -> Incoming[Any] | None:
        """As ``decode``, where nothing has to be waited for; else ``None``."""
        value = entry.value
        if value is None or (self._claims is not None and MARK in value):
            return None
        try:
            return _incoming(entry, value, self._codec.decode(value, self._record))
        except UnknownSchemaError:
            return None

    def ours(self, incoming: Incoming[Any]) -> Incoming[Any]:
        """The event under the run, with what it changes. Raises ``ConfigurationError`` for a field that it lacks."""
        record, meta = incoming.record, incoming.meta
        if self._first and not self._as_is:
            meta = changed(meta, lane=self._run.lane, run=self._run.run)
            own: dict[str, Any] = {"meta": meta}
            if isinstance(record, _ADMITTED) and record.admission.expires_at is not None:
                # Whether it was in time was decided when it was live.
                own["admission"] = changed(record.admission, expires_at=None)
            record = self._changes.apply(changed(record, **own))
            prompt = self._changes.prompt
            if prompt is not None and isinstance(record, Admitted):
                record = replace(record, request=with_prompt(record.request, prompt.name, prompt.version))
            if self._copies and isinstance(record, Cost):
                record = changed(record, attempt_id=derive_id("replay", self._run.run, record.attempt_id))
        missing = lacking(self._stage.name, record, self._changes.prompt)
        if missing is not None:
            partition, offset = incoming.position
            raise ConfigurationError(
                f"{missing} is empty in the event at partition {partition}, offset {offset}, and {self._stage.name} "
                f"needs it: {remedy(missing)}"
            )
        raw = self._codec.encode(record) if self._pays else incoming.raw
        return replace(incoming, record=record, meta=meta, raw=raw)

    async def _decoded(self, value: bytes) -> Record:
        try:
            return self._codec.decode(value, self._record)
        except UnknownSchemaError as error:
            # Raises where the registry denies it: the run goes on without the event.
            await self._codec.fetch(error.schema_id)
            return self._codec.decode(value, self._record)


def _incoming(entry: Entry, value: bytes, record: Record) -> Incoming[Any]:
    meta: Meta = record.meta  # type: ignore[attr-defined]
    if meta.accepted_at is None:
        meta = replace(meta, accepted_at=entry.time)
    return Incoming(
        record=record,
        meta=meta,
        raw=value,
        appended_at=entry.time,
        control_offset=meta.control_offset,
        timings=load_timings(cast("Any", entry.headers)),
        position=(entry.partition, entry.offset),
    )
