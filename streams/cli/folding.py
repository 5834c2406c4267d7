"""The deltas and chunks of an attempt as one line of an audit: a long text would bury everything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from schemas.records import Chunk, Delta, Text
from streams.causes import Event


@dataclass(slots=True)
class Run:
    """The deltas, or the chunks, of one attempt of a request. In order of time; at least two."""

    events: list[Event] = field(default_factory=list)

    @property
    def first(self) -> Event:
        """Stands for the run in the tree."""
        return self.events[0]

    @property
    def copies(self) -> int:
        """Events that came again with the same bytes."""
        return sum(len(event.copies) - 1 for event in self.events)


def fold(events: Sequence[Event]) -> Iterator[Event | Run]:
    """The events in their order, with each attempt's deltas and chunks as one run where the first of them stands.

    What tells more than its text stays by itself: an undecodable one, a dead letter and what hangs above it, copies
    with other bytes.
    """
    runs: dict[tuple[object, ...], Run] = {}
    keys = [_key(event, is_leaf=after is None or after.depth <= event.depth) for event, after in _with_next(events)]
    for event, key in zip(events, keys, strict=True):
        if key is not None:
            runs.setdefault(key, Run()).events.append(event)
    for event, key in zip(events, keys, strict=True):
        if key is None or len(runs[key].events) == 1:
            yield event
        elif runs[key].first is event:
            yield runs[key]


def describe_run(run: Run) -> str:
    """What a run says: how many, of which attempt, how much text, and how it ended."""
    records = [event.first.record for event in run.events]
    deltas = [record for record in records if isinstance(record, Delta)]
    chunks = [record for record in records if isinstance(record, Chunk)]
    characters = max((_end(delta.start_char, delta.text) for delta in deltas), default=0)
    characters += sum(_end(0, chunk.text) for chunk in chunks)
    attempt = (deltas or chunks)[0].attempt
    return f"{len(records)} of attempt {attempt} · {characters} characters · {_ends(deltas, chunks)}"


def _ends(deltas: Sequence[Delta], chunks: Sequence[Chunk]) -> str:
    for delta in deltas:
        if delta.aborted:
            return f"broke off: {delta.finish_reason}" if delta.finish_reason else "broke off"
        if delta.final:
            return f"ended: {delta.finish_reason or 'no finish reason'}"
    for chunk in chunks:
        if chunk.failure is not None:
            return f"failed: {chunk.failure.code}"
        if chunk.kind == "end":
            return f"ended after {chunk.sequence} chunks: {chunk.finish_reason or 'no finish reason'}"
    return "no end"


def _key(event: Event, *, is_leaf: bool) -> tuple[object, ...] | None:
    """What the events of a run share; None for an event of its own."""
    record = event.first.record
    if not isinstance(record, Delta | Chunk) or event.first.letter is not None or not is_leaf or not event.same_bytes:
        return None
    return (event.kind, event.depth, event.causation_id, record.meta.tenant, record.meta.run, record.attempt)


def _end(start: int, text: Text | None) -> int:
    return start + len(text.inline or "") if text is not None else 0


def _with_next(events: Sequence[Event]) -> Iterator[tuple[Event, Event | None]]:
    yield from zip(events, [*events[1:], None], strict=True)
