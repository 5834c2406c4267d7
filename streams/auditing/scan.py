"""Reads a stretch of a lane's topics once and keeps what verifying asks about."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from datetime import datetime

from schemas.ids import request_event_id
from schemas.records import Answer, Completion, Evaluation, Meta, Request
from streams.auditing.findings import Finding
from streams.auditing.ids import id_holds, is_backfilled
from streams.auditing.rerun import OWN_CODES, FilterAgain, differing, print_of, prints
from streams.auditing.rescore import RULES, Told, can_repeat, is_readable, repeated, told
from streams.auditing.seen import Seen
from streams.dead_letters import CONNECT
from streams.headers import IMPORTED
from streams.opened import DEAD_LETTERS, Opened, Opener
from streams.reading import Entry, Place, Stretch, TopicReader
from streams.topics import kind_of, tenant_of

# What producers write, perhaps in transactions, whose markers take offsets of their own.
FROM_OUTSIDE = ("requests", "feedback", "documents")
# A producer may send the same id again in other words: admission tells them apart.
_MAY_DIFFER = (*FROM_OUTSIDE, "alerts")
_MICRO = 1_000_000
# What is looked up in what was read, by the kind whose records ask for it.
_INDEXES = {
    "answers": "CREATE INDEX IF NOT EXISTS scores_answer ON scores (answer_id)",
    "completions": "CREATE INDEX IF NOT EXISTS answers_cause ON answers (cause)",
}

Advance = Callable[[str, int], None]


def micros(moment: datetime | None) -> int | None:
    """Microseconds since 1970."""
    return None if moment is None else round(moment.timestamp() * _MICRO)


def place_of(entry: Entry) -> str:
    """Where a record lies."""
    return f"{entry.topic}-{entry.partition}@{entry.offset}"


@dataclass(slots=True)
class Counts:
    """What was read."""

    records: int = 0
    requests: int = 0
    answers: int = 0
    reruns: int = 0
    # Completions whose answer something else decided, or that have none in the stretch.
    not_rerun: int = 0
    # Scores by rule, and those of them that were made again. Not the others: another version of the scorer made them,
    # or their answer is not in the stretch or can not be read any more.
    scores: int = 0
    rescored: int = 0
    gaps_outside: int = 0
    longest_ttl_ms: int = 0
    # Answers that came with an import: their final rows are in another database.
    imported: int = 0
    # From here on everything is still there; None while that is from the beginning of the stretch.
    kept_from: datetime | None = None
    kinds: dict[str, int] = field(default_factory=dict)


class Scan:
    """Takes entries kind by kind: requests first, evaluations before answers, answers before completions."""

    def __init__(self, seen: Seen, opener: Opener, again: FilterAgain, *, prefix: str, lane: str) -> None:
        self._seen, self._opener, self._again = seen, opener, again
        self._prefix, self._lane = prefix, lane
        self._offsets: dict[Place, int] = {}
        self.counts = Counts()

    def read(
        self,
        reader: TopicReader,
        whole: Mapping[Place, Stretch],
        since: datetime,
        until: datetime | None,
        advance: Advance,
    ) -> None:
        """Read what was appended to these partitions in a stretch of time. Blocks on the broker.

        ``whole``: the partitions' logs, as they were when their ends were taken.
        """
        starts = reader.offsets_at(list(whole), since)
        ends = {} if until is None else reader.offsets_at(list(whole), until)
        stretches = {
            place: Stretch(max(one.start, starts.get(place, one.start)), min(one.end, ends.get(place, one.end)))
            for place, one in whole.items()
        }
        # Where the log itself begins in the stretch, what came before may have gone by retention.
        cut = {place for place, one in whole.items() if one.start > 0 and stretches[place].start == one.start}
        self._offsets |= {place: one.start for place, one in stretches.items()}
        for entry in reader.read(stretches):
            place = (entry.topic, entry.partition)
            if place in cut:
                cut.discard(place)
                self.counts.kept_from = max(entry.time, self.counts.kept_from or entry.time)
            self.take(entry)
            advance("records", 1)
        for place, stretch in stretches.items():
            self._ended(place, stretch)

    def _ended(self, place: Place, stretch: Stretch) -> None:
        """Whether a partition's stretch was read to its end."""
        missing = stretch.end - self._offsets.get(place, stretch.end)
        if missing > 0:
            where = f"{place[0]}-{place[1]}@{stretch.end}"
            self._missing(kind_of(place[0], self._prefix, self._lane), where, stretch.end - missing, missing)

    def take(self, entry: Entry) -> None:
        """Keep what is asked about one entry."""
        opened = self._opener.open(entry)
        counts = self.counts
        counts.records += 1
        counts.kinds[opened.kind] = counts.kinds.get(opened.kind, 0) + 1
        self._gap(entry, opened.kind)
        if opened.kind == DEAD_LETTERS:
            self._letter(entry)
        elif opened.record is None:
            self._seen.add("broken", (place_of(entry), micros(entry.time)))
        elif opened.meta is not None:
            self._event(opened, opened.meta)

    def _gap(self, entry: Entry, kind: str) -> None:
        place = (entry.topic, entry.partition)
        expected = self._offsets.get(place, entry.offset)
        self._offsets[place] = entry.offset + 1
        if entry.offset <= expected:
            return
        self._missing(kind, place_of(entry), expected, entry.offset - expected)

    def _missing(self, kind: str, where: str, first: int, count: int) -> None:
        if kind in FROM_OUTSIDE:
            self.counts.gaps_outside += count
            return
        self._seen.found([Finding("offset_gap", place=where, detail=f"{count} missing from {first}")])

    def _letter(self, entry: Entry) -> None:
        named = {name: (value or b"").decode("utf-8", "replace") for name, value in entry.headers}
        where = "{}-{}@{}".format(*(named.get(f"{CONNECT}{part}", "") for part in ("topic", "partition", "offset")))
        self._seen.add("letters", (where, (entry.key or b"").decode("utf-8", "replace")))

    def _event(self, opened: Opened, meta: Meta) -> None:
        entry, record = opened.entry, opened.record
        assert record is not None
        place, tenant = place_of(entry), meta.tenant
        if isinstance(record, Request):
            tenant = tenant_of(entry.topic, self._prefix, self._lane) or tenant
            self._request(record, entry, tenant)
        elif not id_holds(record):
            said = f"{meta.stage} {meta.event_id}"
            self._seen.found([Finding("id_wrong", tenant, meta.request_id, place, said)])
        digest = None if opened.kind in _MAY_DIFFER else hashlib.blake2b(entry.value or b"", digest_size=8).digest()
        owner = tenant_of(entry.topic, self._prefix, self._lane)
        if owner and isinstance(record, Answer):
            # A tenant's own copy is compared with the shared one, of which the rest is asked.
            row = (owner, tenant, meta.request_id, meta.event_id, micros(entry.time), digest, place)
            self._seen.add("copies", row)
            return
        accepted = None if isinstance(record, Request) else micros(meta.accepted_at)
        # What a backfill published was caused in another lane.
        cause = "" if is_backfilled(meta) else meta.causation_id
        self._seen.add("events", (opened.kind, meta.event_id, cause, tenant, meta.request_id, accepted, digest, place))
        if isinstance(record, Answer):
            self._answer(record, entry)
            self._score_again(record)
        elif isinstance(record, Evaluation):
            self._scores(record, place)
        elif isinstance(record, Completion):
            self._run_again(record, place)

    def _request(self, request: Request, entry: Entry, tenant: str) -> None:
        self.counts.requests += 1
        self.counts.longest_ttl_ms = max(self.counts.longest_ttl_ms, request.ttl_ms)
        request_id = request.meta.request_id
        own_id = request_event_id(tenant=tenant, lane=self._lane, request_id=request_id)
        row = (tenant, request_id, own_id, micros(entry.time), request.ttl_ms, place_of(entry))
        self._seen.add("requests", row)

    def _answer(self, answer: Answer, entry: Entry) -> None:
        self.counts.answers += 1
        imported = any(name == IMPORTED for name, _ in entry.headers)
        self.counts.imported += imported
        meta = answer.meta
        row = (
            meta.tenant,
            meta.request_id,
            meta.run,
            answer.revision,
            meta.event_id,
            meta.causation_id if meta.stage == "filter" and not is_backfilled(meta) else "",
            answer.supersedes or "",
            answer.failure.code if answer.failure is not None else "",
            micros(meta.accepted_at),
            micros(answer.decided_at),
            prints(answer),
            micros(entry.time),
            print_of(answer),
            int(imported),
            place_of(entry),
        )
        self._seen.add("answers", row)

    def begin(self, kind: str) -> None:
        """Call it before the first entry of a kind."""
        if kind in _INDEXES:
            self._seen.change(_INDEXES[kind])

    def _scores(self, evaluation: Evaluation, place: str) -> None:
        for score in evaluation.scores:
            if score.name not in RULES:
                continue
            self.counts.scores += 1
            if can_repeat(score):
                meta = evaluation.meta
                row = (evaluation.answer_event_id, meta.tenant, meta.request_id, place, *astuple(told(score)))
                self._seen.add("scores", row)

    def _score_again(self, answer: Answer) -> None:
        key = {"id": answer.meta.event_id}
        if self.counts.rescored == self.counts.scores or not is_readable(answer):
            return
        rows = list(self._seen.ask("SELECT * FROM scores WHERE answer_id = :id", key))
        if not rows:
            return
        # A copy of the answer says the same.
        self._seen.change("DELETE FROM scores WHERE answer_id = :id", key)
        self.counts.rescored += len(rows)
        recorded = [Told(*row[4:]) for row in rows]
        for (_, tenant, request_id, place, *_), one, fields in zip(
            rows, recorded, repeated(answer, recorded), strict=True
        ):
            if fields:
                detail = f"{one.name} differs in {', '.join(fields)}"
                self._seen.found([Finding("scores_differ", tenant, request_id, place, detail)])

    def _run_again(self, completion: Completion, place: str) -> None:
        query = "SELECT code, decided, prints, run FROM answers WHERE cause = :cause ORDER BY run LIMIT 1"
        answer = next(self._seen.ask(query, {"cause": completion.meta.event_id}), None)
        # An answer in the lane of a run is that of another policy, on purpose.
        if answer is None or answer[0] not in OWN_CODES or answer[1] is None:
            self.counts.not_rerun += 1
            return
        self.counts.reruns += 1
        fields = differing(self._again.prints(completion, answer[1]), answer[2])
        if fields:
            meta = completion.meta
            detail = f"differs in {', '.join(fields)}"
            self._seen.found([Finding("filter_differs", meta.tenant, meta.request_id, place, detail)])
