"""Judges a run by its evidence: what was lost, doubled, made up or paid for twice. Knows nothing of the workers."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from schemas.ids import derive_id
from schemas.records import Admitted, Answer, Completion, Cost, Delta, Enrichment
from tests.faults.books import ledger_faults
from tests.faults.evidence import AttemptRow, Evidence, ProviderCall, Seen

ENRICHMENTS = ("enrichments.high", "enrichments.normal", "enrichments.low")
WORKER_LOST = "worker_lost"
CRASH_LOOP = 3
# As many examples as a violation names.
EXAMPLES = 5
# Clocks are one machine's; this covers rounding.
ROUNDING_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The account of a run, and every rule that was broken."""

    requests: int
    statuses: dict[str, int]
    lost: tuple[str, ...]
    phantoms: tuple[str, ...]
    # Records beyond one for each request, by topic.
    duplicates: dict[str, int]
    kills: dict[str, int]
    paid_calls: int
    extra_paid_calls: int
    calls_open_at_kills: int
    booked_unknown: int
    # Enrichments that came again with another input.
    drifted: int
    violations: tuple[str, ...] = field(default=())


def verify(evidence: Evidence) -> Verdict:
    """Judge a run. Does no I/O."""
    judge = _Judge(evidence)
    judge.answers()
    judge.copies()
    judge.calls()
    judge.money()
    judge.documents()
    judge.workers()
    return judge.verdict()


class _Judge:
    """One pass over the evidence. Each method adds what it finds to ``violations``."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._violations: list[str] = []
        self._answers = _by_key(evidence.topics["answers"])
        self._attempts = {row.attempt_id: row for row in evidence.attempts}
        self._paid = [call for call in evidence.provider if call.paid]
        self._lost = tuple(sorted(evidence.accepted.keys() - self._answers.keys()))
        self._phantoms = self._find_phantoms()
        self._opened = self._open_at_kills()
        self._crash_looped = self._find_crash_looped()
        self._statuses: Counter[str] = Counter()

    def answers(self) -> None:
        """Every request has exactly one final answer: one row, and copies on the topic with its very bytes."""
        evidence = self._evidence
        self._check("without an answer", self._lost)
        self._check("made up: nobody asked", self._phantoms)
        finals = defaultdict(list)
        for row in evidence.finals:
            finals[row.request_id].append(row)
        several = [name for name, rows in finals.items() if len(rows) > 1 or rows[0].revision != 0]
        self._check("with other than one final row of revision 0", several)
        self._check("without a final row", evidence.accepted.keys() - finals.keys())
        for request_id, copies in self._answers.items():
            stored = finals[request_id][0].answer if finals.get(request_id) else b""
            if {seen.value for seen in copies} != {stored}:
                self._violations.append(f"{request_id}: answers differ from the final row or among themselves")
            answer = evidence.codec.decode(copies[0].value, Answer)
            self._statuses[answer.status] += 1
            planned = evidence.planned.get(request_id)
            wanted = "answered" if planned and planned.valid else "rejected"
            if answer.status != wanted and request_id not in self._crash_looped:
                code = answer.failure.code if answer.failure else "no failure"
                self._violations.append(f"{request_id}: is {answer.status} ({code}), should be {wanted}")

    def copies(self) -> None:
        """A redelivered event has the same id and the same bytes; an enrichment at least the same id."""
        decode, topics = self._evidence.codec.decode, self._evidence.topics
        for kind, record in (("admitted", Admitted), ("completions", Completion)):
            for key, copies in _by_key(topics[kind]).items():
                if len({seen.value for seen in copies}) > 1:
                    self._violations.append(f"{key}: copies on {kind} have different bytes")
                ids = {decode(value, record).meta.event_id for value in {seen.value for seen in copies}}
                if len(ids) > 1:
                    self._violations.append(f"{key}: copies on {kind} have {len(ids)} event ids")
        for key, copies in self._enrichments().items():
            if len({decode(value, Enrichment).meta.event_id for value in {seen.value for seen in copies}}) > 1:
                self._violations.append(f"{key}: its enrichments have several event ids")
        self._streams()
        letters = [seen.key for seen in topics["dead-letters"] if seen.key not in self._crash_looped]
        self._check("on dead-letters", letters)

    def _streams(self) -> None:
        """A delta's copies have the same bytes, and a stream is closed with the very text of its completion."""
        decode, topics = self._evidence.codec.decode, self._evidence.topics
        closed: dict[str, Delta] = {}
        for event_id, copies in _grouped(
            topics["deltas"], lambda seen: decode(seen.value, Delta).meta.event_id
        ).items():
            if len({seen.value for seen in copies}) > 1:
                self._violations.append(f"{copies[0].key}: copies of delta {event_id} have different bytes")
            delta = decode(copies[0].value, Delta)
            if delta.final:
                closed[copies[0].key] = delta
        for key, copies in _by_key(topics["completions"]).items():
            completion = decode(copies[0].value, Completion)
            if completion.streamed and (key not in closed or closed[key].text != completion.text):
                self._violations.append(f"{key}: its stream is not closed with its text")

    def calls(self) -> None:
        """Nothing is paid without a row committed first, nor twice but for calls that were open at a kill."""
        for call in self._evidence.provider:
            row = self._attempts.get(call.attempt_id)
            if row is None or row.request_id != call.request_id:
                self._violations.append(f"{call.request_id}: call {call.number} has no row in the journal")
            elif row.started_at.timestamp() > call.began + ROUNDING_S:
                self._violations.append(f"{call.request_id}: call {call.number} was made before its row")
        twice = [name for name, count in Counter(c.attempt_id for c in self._evidence.provider).items() if count > 1]
        self._check("attempts that were sent more than once", twice)
        for request_id, calls in self._paid_by_request().items():
            self._check_paid(request_id, calls)
        if self._extra() > len(self._opened):
            text = f"{self._extra()} paid calls beyond one a request, but only {len(self._opened)} were open at kills"
            self._violations.append(text)
        unexplained = [
            row.attempt_id
            for row in self._evidence.attempts
            if row.state == "unknown" and not self._was_open(row) and row.late_at is None
        ]
        self._check("attempts booked unknown that were open at no kill", unexplained)
        refused = [p.request_id for p in self._evidence.planned.values() if not p.valid]
        self._check("rejected and yet paid for", set(refused) & self._paid_by_request().keys())

    def money(self) -> None:
        """Every attempt has one cost event, and an answer costs what its attempts do."""
        evidence = self._evidence
        costs: dict[str, Cost] = {}
        for attempt_id, copies in _grouped(evidence.topics["costs"], self._cost_id).items():
            if len({seen.value for seen in copies}) > 1:
                self._violations.append(f"cost {attempt_id}: copies have different bytes")
            costs[attempt_id] = evidence.codec.decode(copies[0].value, Cost)
        wanted = set(self._attempts)
        wanted |= {derive_id(row.attempt_id, "late") for row in evidence.attempts if row.late_at is not None}
        if evidence.accounted:
            self._violations += ledger_faults(evidence, list(costs.values()))
        self._check("attempts without a cost event", wanted - costs.keys())
        self._check("cost events without an attempt", costs.keys() - wanted)
        self._check("attempts left open", [row.attempt_id for row in evidence.attempts if row.state == "calling"])
        booked: defaultdict[str, Decimal] = defaultdict(Decimal)
        for row in evidence.attempts:
            booked[row.request_id] += row.cost_usd or Decimal(0)
        charged: defaultdict[str, Decimal] = defaultdict(Decimal)
        for cost in costs.values():
            charged[cost.meta.request_id] += cost.amount_usd
        for request_id in booked.keys() | charged.keys():
            if booked[request_id] != charged[request_id]:
                text = f"{request_id}: attempts cost {booked[request_id]}, cost events say {charged[request_id]}"
                self._violations.append(text)
        late = {row.request_id for row in evidence.attempts if row.late_at is not None}
        for request_id, copies in self._answers.items():
            answer = evidence.codec.decode(copies[0].value, Answer)
            if answer.cost_usd != booked[request_id] and request_id not in late:
                text = f"{request_id}: its answer says {answer.cost_usd}, its attempts cost {booked[request_id]}"
                self._violations.append(text)

    def documents(self) -> None:
        """What was published last is what is indexed, whole and alone."""
        indexed = {row.document_id: row for row in self._evidence.indexed}
        for document_id, body in self._evidence.documents.items():
            row = indexed.get(document_id)
            digest = hashlib.sha256(body.encode()).hexdigest()
            if row is None or row.digest != digest or row.current == 0:
                self._violations.append(f"document {document_id}: its last text is not indexed")
            elif not row.current == row.passages == row.passage_count:
                self._violations.append(f"document {document_id}: {row.passages - row.current} old passages are left")

    def workers(self) -> None:
        """Nobody died unasked, everything read was committed, and drift was counted."""
        evidence = self._evidence
        self._violations += [f"the worker of {stage} ended by itself with {code}" for stage, code in evidence.died]
        for group, count in evidence.uncommitted.items():
            self._violations.append(f"group {group}: {count} events are not committed after the run")
        if evidence.counters and self._drifted() and not evidence.counters.get("headrace_input_drift_total"):
            self._violations.append(f"{self._drifted()} inputs drifted, but headrace_input_drift_total is 0")

    def verdict(self) -> Verdict:
        """The account."""
        evidence = self._evidence
        sent = sum(planned.copies for name, planned in evidence.planned.items() if name in evidence.accepted)
        duplicates = {
            "requests": len(evidence.topics["requests"]) - sent,
            **{kind: _repeats(evidence.topics[kind], _key) for kind in ("admitted", "completions", "answers")},
            "enrichments": sum(_repeats(evidence.topics[kind], _key) for kind in ENRICHMENTS),
            "costs": _repeats(evidence.topics["costs"], self._cost_id),
        }
        return Verdict(
            requests=len(evidence.accepted),
            statuses=dict(self._statuses),
            lost=self._lost,
            phantoms=self._phantoms,
            duplicates=duplicates,
            kills=dict(Counter(kill.stage for kill in evidence.kills)),
            paid_calls=len(self._paid),
            extra_paid_calls=self._extra(),
            calls_open_at_kills=len(self._opened),
            booked_unknown=sum(row.state == "unknown" for row in evidence.attempts),
            drifted=self._drifted(),
            violations=tuple(self._violations),
        )

    def _check_paid(self, request_id: str, calls: Sequence[ProviderCall]) -> None:
        """Of a request's paid calls one is ``done``; every other was open at a kill and is booked at its bound.

        A worker that wakes up late books what the call cost in truth, as a duplicate.
        """
        rows = [self._attempts[call.attempt_id] for call in calls if call.attempt_id in self._attempts]
        done = [row for row in rows if row.state == "done" and not row.duplicate]
        if len(done) != (0 if request_id in self._crash_looped else 1):
            self._violations.append(f"{request_id}: {len(calls)} paid calls, {len(done)} of them booked done")
        for row in rows:
            if row.state == "done" and not row.duplicate:
                continue
            if row.duplicate and row.late_at is not None and row.attempt_id in self._opened:
                continue
            bounded = row.state == "unknown" and row.upper_bound and row.cost_usd == row.upper_bound_usd
            if not bounded or row.error_code != WORKER_LOST:
                text = f"a paid call is booked {row.state} ({row.error_code}) at {row.cost_usd}, not at its bound"
                self._violations.append(f"{request_id}: {text}")
            if row.attempt_id not in self._opened:
                self._violations.append(f"{request_id}: paid again for a call that was open at no kill")

    def _open_at_kills(self) -> dict[str, int]:
        """Attempts that a provider had begun and the journal had not closed at a kill; to the number of that kill."""
        found: dict[str, int] = {}
        for number, kill in enumerate(self._evidence.kills):
            if kill.stage != "complete":
                continue
            for call in self._paid:
                row = self._attempts.get(call.attempt_id)
                if call.began <= kill.after and (row is None or not _closed(row, kill.before)):
                    found.setdefault(call.attempt_id, number)
        return found

    def _find_crash_looped(self) -> set[str]:
        """Requests that were in a call at three kills: the protocol gives them up, with a dead letter and an answer."""
        lost = Counter(row.request_id for row in self._evidence.attempts if row.error_code == WORKER_LOST)
        ended = {row.request_id for row in self._evidence.finals if row.status == "failed"}
        return {name for name, count in lost.items() if count >= CRASH_LOOP and name in ended}

    def _was_open(self, row: AttemptRow) -> bool:
        return any(
            kill.stage == "complete" and row.started_at.timestamp() <= kill.after and not _closed(row, kill.before)
            for kill in self._evidence.kills
        )

    def _find_phantoms(self) -> tuple[str, ...]:
        seen = {one.key for kind, records in self._evidence.topics.items() if kind != "dead-letters" for one in records}
        seen |= {row.request_id for row in self._evidence.finals} | {row.request_id for row in self._evidence.calls}
        seen |= {call.request_id for call in self._evidence.provider}
        return tuple(sorted(seen - self._evidence.planned.keys()))

    def _paid_by_request(self) -> dict[str, list[ProviderCall]]:
        found: defaultdict[str, list[ProviderCall]] = defaultdict(list)
        for call in self._paid:
            found[call.request_id].append(call)
        return found

    def _extra(self) -> int:
        return sum(len(calls) - 1 for calls in self._paid_by_request().values())

    def _enrichments(self) -> dict[str, list[Seen]]:
        return _by_key([seen for kind in ENRICHMENTS for seen in self._evidence.topics[kind]])

    def _drifted(self) -> int:
        """Deliveries whose messages are not those that the journal has."""
        stored = {row.request_id: row.input for row in self._evidence.calls}
        decode = self._evidence.codec.decode
        count = 0
        for key, copies in self._enrichments().items():
            for seen in copies:
                if key in stored and seen.value != stored[key]:
                    now, then = decode(seen.value, Enrichment), decode(stored[key], Enrichment)
                    count += now.grounding.messages != then.grounding.messages
        return count

    def _cost_id(self, seen: Seen) -> str:
        return self._evidence.codec.decode(seen.value, Cost).meta.event_id

    def _check(self, what: str, found: Iterable[str]) -> None:
        names = sorted(found)
        if names:
            more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
            self._violations.append(f"{len(names)} {what}: {', '.join(names[:EXAMPLES])}{more}")


def _closed(row: AttemptRow, moment: float) -> bool:
    """Whether the attempt had an outcome in the journal by then."""
    return row.ended_at is not None and row.ended_at.timestamp() <= moment


def _key(seen: Seen) -> str:
    return seen.key


def _by_key(records: Sequence[Seen]) -> dict[str, list[Seen]]:
    return _grouped(records, _key)


def _grouped(records: Sequence[Seen], name: Callable[[Seen], str]) -> dict[str, list[Seen]]:
    found: defaultdict[str, list[Seen]] = defaultdict(list)
    for seen in records:
        found[name(seen)].append(seen)
    return dict(found)


def _repeats(records: Sequence[Seen], name: Callable[[Seen], str]) -> int:
    return len(records) - len({name(seen) for seen in records})
