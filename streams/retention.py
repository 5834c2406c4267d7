"""How long everything is kept: the one table of defaults, for topics and for tables, and the rules between them.

The rows that keep a request from being paid or answered twice have to outlive every event that could ask for it
again: topic retention plus the broker's offset retention. That span is the *horizon*; a request or a call older than
it is refused (``too_old``), because the rows that would know it may be gone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import LiteralString

FOREVER = math.inf
DAY_S = 86_400
# Between the horizon and the day on which a row may go: an event that is being decided must not lose its row.
MARGIN_DAYS = 1.0

# Days by kind of topic.
TOPIC_DAYS: Mapping[str, float] = {
    "requests": 7,
    "admitted": 7,
    "enrichments.high": 7,
    "enrichments.normal": 7,
    "enrichments.low": 7,
    "completions": 30,
    "deltas": 1,
    "chunks": 1,
    "answers": 30,
    "evaluations": 90,
    "feedback": 90,
    "costs": 90,
    "documents": 30,
    # Small, not compacted: it tells what was live at any moment.
    "control": FOREVER,
    "alerts": 30,
    "dead-letters": 90,
}
# A shorter life of these would change what happened.
FIXED_TOPICS = ("control",)
# The topics whose events lead to a call or an answer when they are delivered again.
REQUEST_PATH = ("requests", "admitted", "enrichments.high", "enrichments.normal", "enrichments.low", "completions")


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose rows go after ``days``, counted from ``column``. ``where``: which rows may go at all.

    ``outlives``: the topics whose events must find the row.
    """

    name: LiteralString
    column: LiteralString
    days: float
    where: LiteralString = "true"
    outlives: tuple[str, ...] = ()
    why: str = ""


TABLES = (
    Table("idempotency", "reserved_at", 45, outlives=REQUEST_PATH, why="which body a request id or key stands for"),
    Table("finals", "decided_at", 45, outlives=REQUEST_PATH, why="the final answers"),
    Table(
        "calls",
        "created_at",
        45,
        # A call that is open may be paid: its row stays until somebody has booked how it ended.
        where="state IN ('done', 'failed', 'unknown') AND updated_at < %(before)s",
        outlives=REQUEST_PATH,
        why="the journal of paid calls; open calls stay",
    ),
    # Two summers of books. A cost event must find the row that it was booked in.
    Table("ledger", "incurred_at", 400, outlives=("costs",), why="the books: one row an attempt"),
    # What a stage embedded must be found when its input is delivered again.
    Table(
        "spends",
        "opened_at",
        45,
        where="told_at IS NOT NULL",
        outlives=("answers", "documents", *REQUEST_PATH),
        why="what embedding cost, until it is in the books, and the vectors that were bought",
    ),
    Table("evaluations", "expected_at", 120, outlives=("answers",), why="scores, and what was to be scored"),
    Table("feedback", "received_at", 400, outlives=("feedback",), why="what users thought of answers"),
    Table(
        "dead_letters",
        "changed_at",
        120,
        # A retry whose end is not noted may still be finished.
        where="state <> 'retrying'",
        outlives=("dead-letters", *REQUEST_PATH),
        why="what operators did with dead letters; unfinished retries stay",
    ),
    # Only what calls still hold can be served; without its row a request is asked anew.
    Table("cache_entries", "created_at", 45, why="which call answers a request that was asked before"),
    Table(
        "bodies",
        "stored_at",
        120,
        outlives=("dead-letters", "answers", "documents", *REQUEST_PATH),
        why="texts that are too large for a topic",
    ),
    # Only what calls and spends still hold can be reused.
    Table("deleted_runs", "deleted_at", 45, why="lanes of deleted replays, whose paid calls another one reuses"),
    Table("batches", "begun_at", 45, where="state IN ('ended', 'lost')", why="batches at providers; open ones stay"),
    Table(
        "batch_items",
        "stored_at",
        45,
        where="state IN ('done', 'returned')",
        why="which calls went by batch; those that still wait for a reply stay",
    ),
    Table("batch_followers", "stored_at", 7, why="requests that wait for an identical one's batch"),
    Table("worker_reports", "updated_at", 7, why="reports of workers that ended without a farewell"),
    Table("provider_use", "updated_at", 1, why="what processes use of providers; one that is gone tells nothing new"),
    Table("in_flight", "until", 1, why="requests of capped tenants; a row counts until its request has expired"),
    # As long as the ledger.
    Table("budgets", "period_start", 400, why="what each budget's period has spent"),
    Table(
        "budget_reservations",
        "changed_at",
        45,
        where="state = 'settled'",
        outlives=REQUEST_PATH,
        why="what each call reserved and spent of budgets; open ones stay",
    ),
    Table("rate_buckets", "at", 1, why="levels of rate limits; a bucket that is gone is full"),
    Table("pending_vectors", "created_at", 7, why="vectors of documents whose indexing was never finished"),
    Table(
        "documents",
        "indexed_at",
        45,
        where="deleted",
        outlives=("documents",),
        why="tombstones of removed documents; documents themselves stay",
    ),
    # As long as requests, which replays have their passages retrieved for as of then, and a week to replay them in.
    Table("superseded_passages", "superseded_at", 14, why="passages that were replaced or removed, for replays"),
)
# Rows of these go with a row of the table that they belong to.
GO_WITH = {
    "attempts": "calls",
    "rerates": "ledger",
    "redrives": "dead_letters",
    "passages": "documents",
    "cache_vectors": "cache_entries",
}
# Nothing purges these, and why.
KEPT_FOREVER = {
    "deferred": "every row is an event that waits; it goes when the event is put back on its topic",
    "batch_collectors": "one row a lane and deployment with batches",
    "in_flight_tenants": "one row a tenant with a cap",
    "seals": "every seal proves the one before it; the records' hashes in them go with the records",
    "tombstones": "who removed a record, and why",
    "replay_runs": "headrace replay delete removes a run, with its topics",
    "replay_places": "as replay_runs",
    "replay_answers": "as replay_runs",
    "mirror_days": "as replay_runs; one row a mirror and day",
    "mirror_calls": "as replay_runs; an event's row goes once its outputs are noted",
    "index_history": "one row: since when the index can be searched as it was",
    "prompts": "small, and every answer names a version of one",
    "schema_migrations": "what this database has been through",
}
_BY_NAME = {table.name: table for table in TABLES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The defaults with an operator's changes. All spans are in days, ``math.inf`` for ever."""

    topics: Mapping[str, float]
    tables: Mapping[str, float]
    offsets_days: float

    @classmethod
    def of(cls, topics: Mapping[str, float], tables: Mapping[str, float], offsets_days: float) -> Retention:
        """The defaults under these changes. Raises ``ValueError`` that names what is wrong and what to do."""
        _known("topics", topics, TOPIC_DAYS)
        _known("tables", tables, _BY_NAME)
        for kind in FIXED_TOPICS:
            if topics.get(kind, FOREVER) != FOREVER:
                raise ValueError(f"retention.topics.{kind} is kept for ever: it tells what was live; leave it out")
        defaults = {table.name: table.days for table in TABLES}
        # What was paid in a deleted run is found as long as it is there.
        defaults["deleted_runs"] = max(tables.get(name, defaults[name]) for name in ("calls", "spends"))
        retention = cls(topics={**TOPIC_DAYS, **topics}, tables={**defaults, **tables}, offsets_days=offsets_days)
        retention._check()
        return retention

    @property
    def horizon(self) -> timedelta | None:
        """The age from which a request is refused; ``None`` where rows are kept for ever."""
        days = self._span(REQUEST_PATH)
        return None if days == FOREVER else timedelta(days=days)

    def topic_ms(self, kind: str) -> int:
        """``retention.ms`` of a topic; -1 for ever."""
        days = self.topics[kind]
        return -1 if days == FOREVER else round(days * DAY_S * 1000)

    def _span(self, kinds: tuple[str, ...]) -> float:
        """How long an event of these topics may still be delivered."""
        return max(self.topics[kind] for kind in kinds) + self.offsets_days

    def _check(self) -> None:
        for table in TABLES:
            if not table.outlives:
                continue
            least = self._span(table.outlives) + MARGIN_DAYS
            if self.tables[table.name] < least:
                longest = max(table.outlives, key=lambda kind: self.topics[kind])
                raise ValueError(
                    f"retention.tables.{table.name} is {say_days(self.tables[table.name])}, but its rows have to "
                    f"outlive topic retention ({longest}: {say_days(self.topics[longest])}) plus offset retention "
                    f"({say_days(self.offsets_days)}) and a day: set it to {say_days(least)} or more"
                )


def say_days(days: float) -> str:
    """``45 days``, ``1 day``, ``12 hours`` or ``for ever``."""
    if days == FOREVER:
        return "for ever"
    amount, unit = (days, "day") if days >= 1 else (days * 24, "hour")
    return f"{amount:g} {unit}{'' if amount == 1 else 's'}"


def _known(what: str, given: Mapping[str, float], declared: Mapping[str, object]) -> None:
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise ValueError(f"retention.{what} knows no {unknown[0]!r}; there are {', '.join(declared)}")
