"""Verifies a lane: every request has its answer, every event its cause, its own id and its own bytes, and more."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, LiteralString
from zlib import crc32

import psycopg

from processors.account.reconcile import reconcile
from processors.postgres import Database, away
from schemas.codec import Codec
from schemas.errors import ConfigurationError, DependencyDownError
from schemas.records import Answer
from streams.audit import REPLAYS
from streams.auditing.checks import check
from streams.auditing.findings import Finding
from streams.auditing.rerun import FilterAgain, print_of
from streams.auditing.scan import Advance, Counts, Scan, micros
from streams.auditing.sealed import Exported, SealCounts
from streams.auditing.sealed_lane import check_lane
from streams.auditing.seen import Seen
from streams.claims import BlockingClaims
from streams.opened import Opener
from streams.reading import Place, TopicReader
from streams.reconciling import gather
from streams.retention import FOREVER
from streams.settings import Settings
from streams.topics import KINDS, input_topics, output_topics, topic_name

# In the order in which they are read: what others are compared with comes first.
FIRST = ("requests", "evaluations", "answers")
LAST = ("completions",)
STREAMED = ("deltas", "chunks")
# In the order in which their ends are taken: effects before causes, so that no effect is read without its cause while
# the lane is at work.
EFFECTS_FIRST = (
    "alerts",
    "costs",
    "evaluations",
    "feedback",
    "answers",
    "chunks",
    "completions",
    "deltas",
    "enrichments.high",
    "enrichments.normal",
    "enrichments.low",
    "admitted",
    "requests",
    "dead-letters",
)
NOT_OF_REQUESTS = ("documents", "control")
# Between the broker's clock and the database's, and what is still under way.
MARGIN = timedelta(minutes=10)
# Attempts whose books are compared at once: about 2 KB each.
AT_ONCE = 100_000
FINALS_AT_ONCE = 1_000
# A row may be purged while its answer waits for a broker that is away.
FINALS_MARGIN = timedelta(days=1)

Plan = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is verified. ``streams``: deltas and chunks too. ``costs``, ``seals``: these too."""

    lane: str
    since: datetime
    until: datetime | None
    grace_s: float
    streams: bool = False
    costs: bool = True
    seals: bool = True
    exported: Exported | None = None

    @property
    def is_replay(self) -> bool:
        """Whether the lane is that of a replay: its requests and causes are in another one, and so are its books."""
        return self.lane.startswith(REPLAYS)


class Verifier:
    """Verifies once. Blocks on broker, registry and Postgres; writes nothing but a temporary file."""

    def __init__(
        self, settings: Settings, codec: Codec, scope: Scope, *, advance: Advance, plan: Plan = lambda _total: None
    ) -> None:
        self._settings, self._codec, self._scope = settings, codec, scope
        self._advance, self._plan = advance, plan
        claims = BlockingClaims(settings, codec)
        # What could not be opened because something is away would be found as broken.
        self._opener = Opener(codec, prefix=settings.prefix, lane=scope.lane, claims=claims, complete=True)
        self.sealed = SealCounts()

    def run(self, seen: Seen) -> Counts:
        """Read everything, and leave in ``seen`` what is off.

        Raises ``ConfigurationError`` for a lane without topics and ``DependencyDownError``.
        """
        settings, scope = self._settings, self._scope
        now = asyncio.run(self._now())
        with TopicReader(settings) as reader, FilterAgain(settings, scope.lane) as again:
            scan = Scan(seen, self._opener, again, prefix=settings.prefix, lane=scope.lane)
            self._read(reader, scan)
        self._finals(seen)
        counts = scan.counts
        bound = max(scope.since, counts.kept_from or scope.since)
        check(
            seen,
            bound_us=micros(bound) or 0,
            until_us=micros(scope.until or now - timedelta(seconds=scope.grace_s)) or 0,
            now_us=micros(now) or 0,
            grace_us=round(scope.grace_s * 1e6),
            finals_us=self._finals_kept(now),
            causes=not scope.is_replay,
        )
        if scope.costs and not scope.is_replay:
            seen.found(self._costs(bound))
        if scope.seals:
            self.sealed = check_lane(
                settings,
                seen,
                lane=scope.lane,
                since=scope.since,
                until=scope.until,
                exported=scope.exported,
                advance=self._advance,
            )
        return counts

    async def _now(self) -> datetime:
        dsn = self._settings.postgres.dsn.get_secret_value()
        database = await Database.open(dsn, max_size=1, application_name="headrace-verify")
        try:
            return await database.now()
        finally:
            await database.close()

    def _read(self, reader: TopicReader, scan: Scan) -> None:
        scope = self._scope
        kinds = [kind for kind in KINDS if kind not in NOT_OF_REQUESTS and (scope.streams or kind not in STREAMED)]
        middle = [kind for kind in kinds if kind not in FIRST + LAST]
        places = {kind: self._places(reader, kind) for kind in (*FIRST, *middle, *LAST)}
        if not any(places.values()):
            raise ConfigurationError(f"the lane {scope.lane} has no topics; name another with --lane")
        logs = {
            place: log for kind in EFFECTS_FIRST if kind in places for place, log in reader.ends(places[kind]).items()
        }
        starts = reader.offsets_at(list(logs), scope.since)
        self._plan(sum(max(0, log.end - max(log.start, starts[place])) for place, log in logs.items()))
        for kind, found in places.items():
            until = scope.until
            if until is not None and kind != "requests":
                # What became of a request that came last is known when its time is over.
                until += timedelta(milliseconds=scan.counts.longest_ttl_ms) + MARGIN
            scan.begin(kind)
            scan.read(reader, {place: logs[place] for place in found}, scope.since, until, self._advance)

    def _places(self, reader: TopicReader, kind: str) -> list[Place]:
        settings, lane = self._settings, self._scope.lane
        # Chunks on tenants' own topics are in the shared one too, and of their answers.
        names: Sequence[str] = (topic_name(settings.prefix, lane, kind),)
        if kind == "requests":
            names = input_topics(settings, lane, kind)
        elif kind == "answers":
            names = output_topics(settings, lane, kind)
        return [(name, number) for name, count in reader.existing(names).items() for number in range(count)]

    def _finals_kept(self, now: datetime) -> int:
        """From when on an answer that was published has its row."""
        days = self._settings.retention.resolved().tables["finals"]
        return 0 if days == FOREVER else micros(now - timedelta(days=days) + FINALS_MARGIN) or 0

    def _finals(self, seen: Seen) -> None:
        """The rows of the stretch, streamed, and those of answers in it that were decided before."""
        scope = self._scope
        parameters = {"lane": scope.lane, "since": scope.since - MARGIN}
        try:
            with (
                psycopg.connect(self._settings.postgres.dsn.get_secret_value(), connect_timeout=5) as connection,
                connection.cursor("finals") as cursor,
            ):
                cursor.itersize = 5_000
                cursor.execute(_FINALS, parameters)
                for row in cursor:
                    seen.add("finals", self._final(*row))
                seen.index()
                unknown = seen.ask(_UNKNOWN)
                while asked := list(islice(unknown, FINALS_AT_ONCE)):
                    tenants, ids, revisions = (list(column) for column in zip(*asked, strict=True))
                    key = {"lane": scope.lane, "tenants": tenants, "ids": ids, "revisions": revisions}
                    for row in connection.execute(_FINALS_OF, key):
                        seen.add("finals", self._final(*row))
        except psycopg.Error as error:
            _raise(error)

    def _final(
        self, tenant: str, request_id: str, revision: int, event_id: str, decided: datetime, value: bytes
    ) -> tuple[Any, ...]:
        """A row as the store has it. Blocks on the registry once for a schema id that the codec does not hold."""
        record = self._opener.record_of(bytes(value))
        shown = print_of(record) if isinstance(record, Answer) else b""
        return tenant, request_id, revision, event_id, micros(decided), shown

    def _costs(self, since: datetime) -> list[Finding]:
        """What the books say otherwise, request by request; in as many parts as memory asks for."""
        settings, scope = self._settings, self._scope
        parts = 1 + self._attempts(since) // AT_ONCE
        findings = []
        for part in range(parts):
            gathered = gather(
                settings,
                self._codec,
                lane=scope.lane,
                since=since,
                grace_s=scope.grace_s,
                wanted=lambda request_id, part=part: crc32(request_id.encode()) % parts == part,  # type: ignore[misc]
            )
            findings += [
                Finding("costs", one.tenant, one.request_id, one.attempt_id, f"{one.kind} {one.detail}".rstrip())
                for one in reconcile(gathered.evidence)
            ]
        return findings

    def _attempts(self, since: datetime) -> int:
        dsn = self._settings.postgres.dsn.get_secret_value()
        try:
            with psycopg.connect(dsn, connect_timeout=5) as connection:
                row = connection.execute(_COUNT, {"lane": self._scope.lane, "since": since}).fetchone()
        except psycopg.Error as error:
            _raise(error)
        return int(row[0]) if row else 0


def open_seen(folder: str) -> Seen:
    """A store in a folder of its own."""
    return Seen(Path(folder) / "seen.sqlite")


def temporary() -> tempfile.TemporaryDirectory[str]:
    """Where the store lies: about 300 bytes an event; ``TMPDIR`` moves it."""
    return tempfile.TemporaryDirectory(prefix="headrace-verify-")


def _raise(error: psycopg.Error) -> Any:
    if isinstance(error, psycopg.errors.UndefinedTable):
        raise ConfigurationError("the database lacks tables; run `headrace migrate`") from None
    if away(error):
        raise DependencyDownError("postgres", type(error).__name__) from error
    raise error


_COLUMNS: LiteralString = "tenant, request_id, revision, event_id, decided_at, answer"
_FINALS: LiteralString = f"SELECT {_COLUMNS} FROM finals WHERE lane = %(lane)s AND decided_at >= %(since)s"
_FINALS_OF: LiteralString = f"""
    SELECT {_COLUMNS} FROM finals
    JOIN unnest(%(tenants)s::text[], %(ids)s::text[], %(revisions)s::integer[])
        AS asked (tenant, request_id, revision) USING (tenant, request_id, revision)
    WHERE lane = %(lane)s
"""
# Answers without a row so far.
_UNKNOWN = """
    SELECT DISTINCT tenant, request_id, revision FROM answers
    WHERE NOT imported AND NOT EXISTS (SELECT 1 FROM finals
        WHERE finals.request_id = answers.request_id AND finals.tenant = answers.tenant
            AND finals.revision = answers.revision)
"""
_COUNT: LiteralString = "SELECT count(*) FROM ledger WHERE lane = %(lane)s AND incurred_at >= %(since)s"
