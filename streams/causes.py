"""Events of one request in causal order: each under the event that caused it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from schemas.ids import request_event_id
from schemas.records import Feedback, Meta
from streams.headers import header
from streams.opened import DEAD_LETTERS, Opened
from streams.topics import KINDS


@dataclass(slots=True)
class Event:
    """One event and all its copies: a redelivery writes it again under the same id."""

    kind: str
    event_id: str
    causation_id: str
    stage: str
    # In order of time.
    copies: list[Opened] = field(default_factory=list)
    depth: int = 0

    @property
    def first(self) -> Opened:
        """The copy that came first."""
        return self.copies[0]

    @property
    def at(self) -> datetime:
        """When it came first."""
        return self.first.entry.time

    @property
    def same_bytes(self) -> bool:
        """Whether all copies hold the same bytes."""
        return len({copy.entry.value for copy in self.copies}) == 1


def causal_order(found: Sequence[Opened]) -> list[Event]:
    """The events as a tree from the request on, causes before effects; siblings by time, then by stage."""
    events = _grouped(found)
    parents = _by_id(events)
    below: dict[int, list[Event]] = {}
    roots = []
    for event in events:
        parent = parents.get(event.causation_id) or _latest_answer(event, events)
        if parent is None or parent is event:
            roots.append(event)
        else:
            below.setdefault(id(parent), []).append(event)
    ordered = list(_walk(roots, below, 0))
    # What two events claim to have caused each other is no tree; it is shown all the same.
    left = [event for event in events if not any(event is one for one in ordered)]
    return ordered + sorted(left, key=_order)


def _latest_answer(event: Event, events: Sequence[Event]) -> Event | None:
    """Feedback that names no answer is about the latest one."""
    if not isinstance(event.first.record, Feedback):
        return None
    answers = [one for one in events if one.kind == "answers" and one.at <= event.at and one.first.letter is None]
    return max(answers, key=lambda one: one.at, default=None)


def _grouped(found: Sequence[Opened]) -> list[Event]:
    groups: dict[tuple[str, str, str], Event] = {}
    for opened in sorted(
        found, key=lambda one: (one.entry.time, one.entry.topic, one.entry.partition, one.entry.offset)
    ):
        event = _event(opened)
        groups.setdefault((event.kind, event.event_id, event.stage), event).copies.append(opened)
    return list(groups.values())


def _event(opened: Opened) -> Event:
    meta, entry = opened.meta, opened.entry
    # What can't be decoded has at most its headers to tell it by.
    known = meta.event_id if meta else (header(_set(opened), "ce_id") or b"").decode("utf-8", "replace")
    event_id = known or f"{entry.topic}/{entry.partition}@{entry.offset}"
    if opened.letter is not None:
        # A dead letter is the event itself, so it hangs under it.
        return Event(DEAD_LETTERS, event_id, event_id, opened.letter.failed_stage)
    cause = meta.causation_id if meta else (header(_set(opened), "ce_causationid") or b"").decode("utf-8", "replace")
    if isinstance(opened.record, Feedback):
        # It comes from outside, and names what it is about.
        cause = opened.record.answer_event_id or cause
    return Event(opened.kind, event_id, cause, meta.stage if meta else "")


def _by_id(events: Sequence[Event]) -> dict[str, Event]:
    """Events by their id. A request has a second one: admission trusts no producer with the id of the first event."""
    found: dict[str, Event] = {}
    for event in sorted(events, key=_order):
        if event.kind == DEAD_LETTERS:
            continue
        found.setdefault(event.event_id, event)
        meta: Meta | None = event.first.meta
        if event.kind == "requests" and meta is not None:
            ours = request_event_id(tenant=meta.tenant, lane=meta.lane, request_id=meta.request_id)
            found.setdefault(ours, event)
    return found


def _walk(events: Sequence[Event], below: dict[int, list[Event]], depth: int) -> Iterator[Event]:
    for event in sorted(events, key=_order):
        event.depth = depth
        yield event
        yield from _walk(below.get(id(event), ()), below, depth + 1)


def _order(event: Event) -> tuple[bool, datetime, int]:
    place = KINDS.index(event.kind) if event.kind in KINDS else len(KINDS)
    return (event.kind != "requests", event.at, place)


def _set(opened: Opened) -> list[tuple[str, bytes]]:
    return [(name, value) for name, value in opened.entry.headers if value is not None]
