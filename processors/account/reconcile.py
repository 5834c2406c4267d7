"""Whether ledger, cost events, journal and answers tell the same, attempt by attempt. Pure: no I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from processors.account.entry import Said, Spender
from processors.account.rule import RERATE, fold

# Every kind of finding, and what it means.
KINDS = {
    "event_not_booked": "a cost event is not in the ledger; is a worker of `account` running, and is it behind?",
    "row_without_event": "a row of the ledger has no cost event",
    "row_differs_from_events": "a row of the ledger says otherwise than its cost events together",
    "conflicting_events": "an attempt's cost events contradict each other; the dearer counts",
    "attempt_not_told": "an attempt in the journal ended and has no cost event",
    "row_without_attempt": "the ledger has a paid attempt that the journal does not know",
    "row_differs_from_journal": "the ledger says otherwise than the journal",
    "attempt_left_open": "an attempt is open and no worker holds its call; its request is waiting, or lost",
    "answer_differs": "an answer's cost is not that of its attempts as they were booked",
    "answer_names_unknown_attempt": "an answer names an attempt that has no cost event and no row",
    "attempt_not_in_answer": "a paid attempt is missing in the answer of its request",
    "paid_without_answer": "a request was paid for and has no answer yet",
}
# Stage whose attempts the journal holds, but for what it buys beside its calls.
_JOURNALED = "complete"
_BESIDE = ("embedding",)


@dataclass(frozen=True, slots=True)
class Row:
    """An attempt in the ledger. ``history`` holds at least the event that it was opened by."""

    attempt_id: str
    spender: Spender
    said: Said
    conflicts: int
    history: tuple[Said, ...]
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """A cost event."""

    attempt_id: str
    spender: Spender
    said: Said


@dataclass(frozen=True, slots=True, kw_only=True)
class Journaled:
    """An attempt in the journal, with its call's state. ``held_until``: end of the call's lease."""

    attempt_id: str
    tenant: str
    run: str
    request_id: str
    state: str
    cost_usd: Decimal | None
    started_at: datetime
    ended_at: datetime | None
    # When the outcome came in, where that was after it had been booked unknown.
    late_at: datetime | None = None
    call_state: str
    call_changed_at: datetime
    held_until: datetime | None


@dataclass(frozen=True, slots=True)
class Named:
    """An attempt as an answer names it."""

    attempt_id: str
    cost_usd: Decimal | None
    started_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An answer."""

    tenant: str
    run: str
    request_id: str
    cost_usd: Decimal
    attempts: tuple[Named, ...]
    decided_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is compared, of one lane.

    Judged is what happened from ``since`` and before ``until``. Before a ``*_from`` nothing is kept of that source any
    more: what would have to be there is not missed. ``finals``: tenant and request of every answer that is final.
    """

    since: datetime
    until: datetime
    costs_from: datetime
    journal_from: datetime
    rows: Sequence[Row] = ()
    events: Sequence[Event] = ()
    attempts: Sequence[Journaled] = ()
    answers: Sequence[Told] = ()
    finals: Collection[tuple[str, str]] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """What does not agree. ``kind`` is one of ``KINDS``; ``detail`` holds amounts and states only."""

    kind: str
    request_id: str
    attempt_id: str
    tenant: str
    detail: str = ""


def reconcile(evidence: Evidence) -> list[Finding]:
    """Everything that does not agree, by kind and request."""
    judge = _Judge(evidence)
    return sorted({*judge.events(), *judge.rows(), *judge.journal(), *judge.answers()})


class _Judge:
    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._rows = {row.attempt_id: row for row in evidence.rows}
        self._events: defaultdict[str, list[Event]] = defaultdict(list)
        for event in evidence.events:
            self._events[event.attempt_id].append(event)
        self._attempts = {one.attempt_id: one for one in evidence.attempts}
        self._named: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
        for answer in evidence.answers:
            self._named[answer.tenant, answer.run, answer.request_id] |= {one.attempt_id for one in answer.attempts}

    def events(self) -> Iterator[Finding]:
        """Every cost event is in the ledger."""
        for attempt_id, events in self._events.items():
            row, first = self._rows.get(attempt_id), events[0]
            if row is None:
                # A correction of what was spent before the stretch stands here without the rest.
                closed = any(one.said.event_id == attempt_id for one in events)
                if closed and self._judged(*(one.said.incurred_at for one in events)):
                    yield _finding("event_not_booked", attempt_id, first.spender, f"{_usd(events)} USD")
                continue
            known = {said.event_id for said in row.history}
            missing = [one for one in events if one.said.event_id not in known]
            if missing and self._judged(*(one.said.incurred_at for one in (*events, *missing))):
                yield _finding("event_not_booked", attempt_id, first.spender, f"{_usd(missing)} USD of a correction")

    def rows(self) -> Iterator[Finding]:
        """Every row has its events, and says what they say; every paid one has its attempt in the journal."""
        evidence = self._evidence
        for row in evidence.rows:
            moments = [row.said.incurred_at, *(said.incurred_at for said in row.history)]
            if not self._judged(*moments) or row.recorded_at >= evidence.until:
                continue
            if row.conflicts:
                yield _finding("conflicting_events", row.attempt_id, row.spender, f"{row.conflicts} more")
            if row.said.incurred_at >= evidence.costs_from:
                yield from self._against_events(row)
            if row.said.incurred_at >= evidence.journal_from and _paid_call(row.spender):
                yield from self._against_journal(row)
                yield from self._against_answer(row)

    def journal(self) -> Iterator[Finding]:
        """Every attempt that ended was told; none is open without a worker; what was paid for was answered."""
        evidence = self._evidence
        for one in evidence.attempts:
            who = (one.request_id, one.attempt_id, one.tenant)
            if one.ended_at is None:
                held = one.held_until is not None and one.held_until >= evidence.until
                if one.started_at >= evidence.since and one.started_at < evidence.until and not held:
                    yield Finding("attempt_left_open", *who)
                continue
            if not self._judged(one.ended_at):
                continue
            ended = one.call_state in ("done", "failed", "unknown") and one.call_changed_at < evidence.until
            told = one.attempt_id in self._events or one.attempt_id in self._rows
            if not told and ended and one.ended_at >= evidence.costs_from:
                yield Finding("attempt_not_told", *who, f"{one.state}, {_plain(one.cost_usd)} USD")
            if ended and not one.run and one.state == "done" and (one.tenant, one.request_id) not in evidence.finals:
                yield Finding("paid_without_answer", *who, f"{_plain(one.cost_usd)} USD")

    def answers(self) -> Iterator[Finding]:
        """Every answer costs what its attempts do, as they were booked when it was decided."""
        evidence = self._evidence
        for answer in evidence.answers:
            if not self._judged(answer.decided_at):
                continue
            total = sum((one.cost_usd or Decimal(0) for one in answer.attempts), Decimal(0))
            if total != answer.cost_usd:
                detail = f"the answer says {_plain(answer.cost_usd)} USD, its attempts {_plain(total)}"
                yield Finding("answer_differs", answer.request_id, "", answer.tenant, detail)
            for named in answer.attempts:
                if named.started_at is not None and named.started_at >= evidence.since:
                    yield from self._named_attempt(answer, named)

    def _named_attempt(self, answer: Told, named: Named) -> Iterator[Finding]:
        who = (answer.request_id, named.attempt_id, answer.tenant)
        booked = self._closing(named.attempt_id)
        if booked is None:
            yield Finding("answer_names_unknown_attempt", *who, f"{_plain(named.cost_usd)} USD")
        elif named.cost_usd is not None and named.cost_usd != booked:
            detail = f"the answer says {_plain(named.cost_usd)} USD, its cost event {_plain(booked)}"
            yield Finding("answer_differs", *who, detail)

    def _closing(self, attempt_id: str) -> Decimal | None:
        """What an attempt was booked at when it ended, before any correction."""
        row = self._rows.get(attempt_id)
        said = list(row.history) if row else [event.said for event in self._events.get(attempt_id, ())]
        first = [one.amount_usd for one in said if one.event_id == attempt_id]
        return max(first) if first else None

    def _against_events(self, row: Row) -> Iterator[Finding]:
        events = self._events.get(row.attempt_id)
        if events is None:
            yield _finding("row_without_event", row.attempt_id, row.spender, f"{_plain(row.said.amount_usd)} USD")
            return
        known = {said.event_id for said in row.history}
        if any(one.said.event_id not in known for one in events):
            # Told by itself: its sum can't agree.
            return
        wanted = fold(row.attempt_id, _distinct(events)).said
        differing = [
            f"{name}: {_plain(getattr(row.said, name))}, its events {_plain(getattr(wanted, name))}"
            for name in ("amount_usd", "state", "prompt_tokens", "completion_tokens", "cached_prompt_tokens")
            if getattr(row.said, name) != getattr(wanted, name)
        ]
        if differing:
            yield _finding("row_differs_from_events", row.attempt_id, row.spender, "; ".join(differing))

    def _against_journal(self, row: Row) -> Iterator[Finding]:
        attempt = self._attempts.get(row.attempt_id)
        if attempt is None:
            yield _finding("row_without_attempt", row.attempt_id, row.spender, f"{_plain(row.said.amount_usd)} USD")
            return
        if attempt.late_at is not None and not self._judged(attempt.late_at):
            return
        rerated = sum((said.amount_usd for said in row.history if said.correction == RERATE), Decimal(0))
        ours, theirs = (row.said.amount_usd - rerated, row.said.state), (attempt.cost_usd, attempt.state)
        if ours != theirs:
            detail = f"{ours[1]}, {_plain(ours[0])} USD; the journal: {theirs[1]}, {_plain(theirs[0])}"
            yield _finding("row_differs_from_journal", row.attempt_id, row.spender, detail)

    def _against_answer(self, row: Row) -> Iterator[Finding]:
        """What was paid is in the request's answer, whatever came of it, and so is what was done for nothing.

        Answers list failed attempts and those of unknown outcome, too: all are closed before the call ends, or with
        it. One whose outcome came in late is the journal's to judge; a change of price changes nothing here.
        """
        spender, said = row.spender, row.said
        named = self._named.get((spender.tenant, spender.run, spender.request_id))
        late = any(one.event_id != row.attempt_id and one.correction != RERATE for one in row.history)
        owed = (said.state == "done" or said.amount_usd > 0) and not late
        if owed and named is not None and row.attempt_id not in named:
            yield _finding("attempt_not_in_answer", row.attempt_id, spender, f"{_plain(said.amount_usd)} USD")

    def _judged(self, *moments: datetime) -> bool:
        """Whether all of it happened in the stretch that is judged: what is younger may be on its way."""
        return min(moments) >= self._evidence.since and max(moments) < self._evidence.until


def _distinct(events: Sequence[Event]) -> list[Said]:
    by_digest: Mapping[tuple[str, str], Said] = {(one.said.event_id, one.said.digest): one.said for one in events}
    return list(by_digest.values())


def _paid_call(spender: Spender) -> bool:
    return spender.stage == _JOURNALED and spender.served_by == "model" and spender.purpose not in _BESIDE


def _finding(kind: str, attempt_id: str, spender: Spender, detail: str) -> Finding:
    return Finding(kind, spender.request_id, attempt_id, spender.tenant, detail)


def _usd(events: Sequence[Event]) -> str:
    return _plain(sum((said.amount_usd for said in _distinct(events)), Decimal(0)))


def _plain(value: object) -> str:
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)
