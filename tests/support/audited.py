"""A lane's topics in memory, verified: what verifying finds in them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from processors.embeddings import HashingEmbedder
from processors.evaluate.material import material
from processors.evaluate.policy import EvaluatePolicy
from processors.evaluate.scoring import score
from processors.spending.payer import Payer
from schemas.codec import Codec
from schemas.record import Record
from schemas.records import Answer, Evaluation
from streams.auditing.checks import check
from streams.auditing.findings import Finding
from streams.auditing.rerun import FilterAgain, print_of
from streams.auditing.scan import Counts, Scan, micros
from streams.auditing.seen import Seen
from streams.opened import Opener
from streams.reading import Entry
from tests.support.recorded import answered, child
from tests.support.settings import bare_settings

START = datetime(2026, 5, 1, tzinfo=UTC)
NOW = START + timedelta(hours=1)
CODEC = Codec.offline()
# The order in which they are read.
ORDER = ("requests", "evaluations", "answers", "admitted", "enrichments.normal", "costs", "dead-letters", "completions")


class Log:
    """A lane's topics in memory: kind to its entries, in order of offset."""

    def __init__(self, requests: int = 3) -> None:
        self.entries: dict[str, list[Entry]] = {kind: [] for kind in ORDER}
        self.flows = [answered("live", f"r{number}", START) for number in range(requests)]
        for flow in self.flows:
            for kind, record in flow.items():
                self.add(kind, record)

    def add(self, kind: str, record: Record | bytes, *, skip: int = 0, headers: dict[str, str] | None = None) -> None:
        held = self.entries[kind]
        offset = (held[-1].offset + 1 if held else 0) + skip
        value = record if isinstance(record, bytes) else CODEC.encode(record)
        key = b"" if isinstance(record, bytes) else record.meta.request_id.encode()  # type: ignore[attr-defined]
        pairs = tuple((name, text.encode()) for name, text in (headers or {}).items())
        self.entries[kind].append(Entry(f"live.{kind}", 0, offset, START, key, value, pairs))

    def drop(self, kind: str) -> None:
        """Forget the first request's record, as if it had never been written."""
        self.entries[kind] = [replace(one, offset=place) for place, one in enumerate(self.entries[kind][1:])]

    def replaced(self, kind: str, record: Record) -> None:
        first = self.entries[kind][0]
        self.entries[kind][0] = replace(first, value=CODEC.encode(record))


def final(given: Answer, revision: int | None = None) -> tuple[object, ...]:
    """The row that the database has of an answer."""
    meta = given.meta
    number = given.revision if revision is None else revision
    return meta.tenant, meta.request_id, number, meta.event_id, micros(START + timedelta(seconds=1)), print_of(given)


def finals_of(log: Log) -> list[tuple[object, ...]]:
    """The row of every answer: the first one of its revision."""
    given = [CODEC.decode(one.value or b"", Answer) for one in log.entries["answers"]]
    return [*{(one.meta.request_id, one.revision): final(one) for one in reversed(given)}.values()]


def verified(
    log: Log, seen: Seen, *, now: datetime = NOW, finals: list[tuple[object, ...]] | None = None
) -> tuple[list[Finding], Counts]:
    opener = Opener(CODEC, prefix="", lane="live")
    with FilterAgain(bare_settings(), "live") as again:
        scan = Scan(seen, opener, again, prefix="", lane="live")
        for kind in ORDER:
            scan.begin(kind)
            for entry in log.entries[kind]:
                scan.take(entry)
    for row in finals_of(log) if finals is None else finals:
        seen.add("finals", row)
    check(
        seen,
        bound_us=micros(START) or 0,
        until_us=micros(now) or 0,
        now_us=micros(now) or 0,
        grace_us=60_000_000,
    )
    return list(seen.findings()), scan.counts


def evaluated(given: Answer, **fields: Any) -> Evaluation:
    """What the evaluate stage makes of an answer by rule. ``fields``: of its policy."""
    policy = EvaluatePolicy(groundedness=False, support=False, relevance=False, **fields)
    payer = Payer(meta=given.meta, stage="evaluate", version="1")
    scores = asyncio.run(score(material(given), HashingEmbedder(), policy, payer))
    return Evaluation(meta=child(given.meta, "evaluate"), answer_event_id=given.meta.event_id, scores=scores)


def answer(log: Log) -> Answer:
    found = log.flows[0]["answers"]
    assert isinstance(found, Answer)
    return found
