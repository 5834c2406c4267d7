"""Backfill: a run's answers into the source lane, each as the next revision of its request's answer.

An answer that a consumer corrected meanwhile is left alone: somebody looked at it, and relies on what it says. So is
one that answers, where the run has no answer, and a request that its lane may still be answering. What was done to each
answer is a row, written with the revision, so that a run that is killed and resumed gives none two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from processors.event import Incoming
from processors.postgres import Connection, Database
from schemas.codec import Codec
from schemas.errors import PoisonError
from schemas.records import Answer, Feedback
from streams.replay.run import Run

CORRECTED, NOT_ANSWERED, IN_FLIGHT = "corrected", "not_answered", "in_flight"
# What becomes of the others.
REPLACED, FIRST = "replaced", "first"
# Of an answer that has no text and of which no guard decided that.
_NO_ANSWER = frozenset({"rejected", "failed", "expired"})
# After a request's time to live, until its lane has said that it is over.
GRACE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """An answer that a backfill left alone, and why."""

    tenant: str
    request_id: str
    reason: str


class Backfill(Protocol):
    """Gives answers their next revision."""

    async def revise(self, answer: Answer, *, over: bool) -> Answer | None:
        """The answer as it is to be published, final now; ``None`` for one that is left alone.

        ``over``: the lane has had its time to answer; a request without an answer is in its hands until then.
        The same run gets the same answer again. Blocks on one transaction; raises ``DependencyDownError``.
        """
        ...


class PostgresBackfill:
    """Backfill by the tables ``finals``, ``feedback`` and ``replay_answers``."""

    def __init__(self, database: Database, codec: Codec, run: Run) -> None:
        self._database, self._codec, self._run = database, codec, run

    async def revise(self, answer: Answer, *, over: bool) -> Answer | None:
        lane, meta = self._run.source_lane, answer.meta
        moved = replace(answer, meta=replace(meta, lane=lane))
        key = {"run": self._run.run, "tenant": meta.tenant, "lane": lane, "request_id": meta.request_id}

        async def work(connection: Connection) -> bytes | None:
            await connection.execute(_LOCK, key)
            row = await (await connection.execute(_KNOWN, key)).fetchone()
            if row is not None:
                outcome, stored = row
                return None if outcome == "left" or stored is None else bytes(stored)
            if any(_corrects(self._codec, value) for (value,) in await _rows(connection, _FEEDBACK, key)):
                await connection.execute(_LEAVE, {**key, "reason": CORRECTED})
                return None
            while True:
                latest = await (await connection.execute(_LATEST, key)).fetchone()
                reason = _left_for(answer, None if latest is None else latest[2], over=over)
                if reason is not None:
                    await connection.execute(_LEAVE, {**key, "reason": reason})
                    return None
                next_ = _following(moved, latest)
                value = self._codec.encode(next_)
                written = {
                    "revision": next_.revision,
                    "event_id": meta.event_id,
                    "status": answer.status,
                    "answer": value,
                    "decided_at": answer.decided_at,
                }
                if await (await connection.execute(_REVISE, {**key, **written})).fetchone() is not None:
                    await connection.execute(_NOTE, {**key, "revision": next_.revision})
                    return value
                # A re-drive took that revision since; the next statement sees it.

        value = await self._database.run(work)
        return None if value is None else self._codec.decode(value, Answer)


async def _rows(connection: Connection, query: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return await (await connection.execute(query, parameters)).fetchall()


def _corrects(codec: Codec, value: bytes) -> bool:
    """Whether a text took the answer's place; a rating is no more than an opinion on it."""
    try:
        return codec.decode(bytes(value), Feedback).correction is not None
    except PoisonError:
        # What can't be read may say so.
        return True


async def prospects(
    database: Database, codec: Codec, lane: str, batch: Sequence[Incoming[Any]], now: datetime
) -> Counter[str]:
    """What a backfill would do to the answers of these events, as far as it is known before: ``REPLACED``, ``FIRST``,
    or why it is left alone. Blocks on two queries; raises ``DependencyDownError``.
    """
    if not batch:
        return Counter()
    asked = {
        "lane": lane,
        "tenants": [incoming.meta.tenant for incoming in batch],
        "ids": [incoming.meta.request_id for incoming in batch],
    }
    answered = {tuple(row) for row in await database.execute(_ANSWERED, asked)}
    said = await database.execute(_SAID, asked)
    corrected = {(tenant, request_id) for tenant, request_id, value in said if _corrects(codec, value)}
    found: Counter[str] = Counter()
    for incoming in batch:
        key = (incoming.meta.tenant, incoming.meta.request_id)
        accepted_at = incoming.meta.accepted_at or incoming.appended_at
        if key in corrected:
            found[CORRECTED] += 1
        elif key in answered:
            found[REPLACED] += 1
        else:
            found[FIRST if is_over(accepted_at, incoming.record.request.ttl_ms, now) else IN_FLIGHT] += 1
    return found


async def left_alone(database: Database, run: str) -> list[Left]:
    """The answers that a run left alone."""
    rows = await database.execute(_LEFT, {"run": run})
    return [Left(tenant=tenant, request_id=request_id, reason=reason) for tenant, request_id, reason in rows]


class FakeBackfill:
    """Revisions in memory. ``corrected`` are requests that are left alone; ``final`` the latest of each request."""

    def __init__(self, *, lane: str = "live") -> None:
        self.final: dict[tuple[str, str], Answer] = {}
        self.corrected: set[str] = set()
        self.given: dict[tuple[str, str], Answer | None] = {}
        self.left: dict[tuple[str, str], str] = {}
        self._lane = lane

    async def revise(self, answer: Answer, *, over: bool) -> Answer | None:
        key = (answer.meta.tenant, answer.meta.request_id)
        if key not in self.given:
            before: Any = self.final.get(key)
            latest = None if before is None else (before.revision, before.meta.event_id)
            moved = replace(answer, meta=replace(answer.meta, lane=self._lane))
            reason = CORRECTED if key[1] in self.corrected else None
            reason = reason or _left_for(answer, None if before is None else before.status, over=over)
            self.given[key] = None if reason else _following(moved, latest)
            if reason:
                self.left[key] = reason
        found = self.given[key]
        if found is not None:
            self.final[key] = found
        return found


def is_over(accepted_at: datetime, ttl_ms: int, now: datetime) -> bool:
    """Whether the lane has had its time to answer a request."""
    return now >= accepted_at + timedelta(milliseconds=ttl_ms) + GRACE


def _left_for(answer: Answer, latest: str | None, *, over: bool) -> str | None:
    """Why the run's answer takes no revision after one of the status ``latest``; ``None`` where it does."""
    if latest is None:
        return None if over else IN_FLIGHT
    return NOT_ANSWERED if latest == "answered" and answer.status in _NO_ANSWER else None


def _following(answer: Answer, latest: tuple[Any, ...] | None) -> Answer:
    """The answer as the revision after ``latest``: its number and event id."""
    revision, supersedes = (latest[0] + 1, latest[1]) if latest else (0, None)
    return replace(answer, revision=revision, supersedes=supersedes)


# Two processes of a run never hold the same request; an earlier process of it may still be writing.
_LOCK = (
    "SELECT pg_advisory_xact_lock(hashtextextended(%(run)s || chr(31) || %(tenant)s || chr(31) || %(request_id)s, 0))"
)
_KNOWN = """
    SELECT done.outcome, finals.answer FROM replay_answers AS done
    LEFT JOIN finals USING (tenant, lane, request_id, revision)
    WHERE done.run = %(run)s AND done.tenant = %(tenant)s AND done.lane = %(lane)s
      AND done.request_id = %(request_id)s
"""
_FEEDBACK = """
    SELECT value FROM feedback WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s
"""
_ASKED = """
    JOIN unnest(%(tenants)s::text[], %(ids)s::text[]) AS asked (tenant, request_id) USING (tenant, request_id)
    WHERE lane = %(lane)s
"""
_ANSWERED = f"SELECT DISTINCT tenant, request_id FROM finals {_ASKED}"
_SAID = f"SELECT tenant, request_id, value FROM feedback {_ASKED}"
_LEAVE = """
    INSERT INTO replay_answers (run, tenant, lane, request_id, outcome, reason)
    VALUES (%(run)s, %(tenant)s, %(lane)s, %(request_id)s, 'left', %(reason)s)
"""
_NOTE = """
    INSERT INTO replay_answers (run, tenant, lane, request_id, outcome, revision)
    VALUES (%(run)s, %(tenant)s, %(lane)s, %(request_id)s, 'revised', %(revision)s)
"""
_LATEST = """
    SELECT revision, event_id, status FROM finals
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s
    ORDER BY revision DESC LIMIT 1
"""
_REVISE = """
    INSERT INTO finals (tenant, lane, request_id, revision, event_id, status, answer, decided_at)
    VALUES (%(tenant)s, %(lane)s, %(request_id)s, %(revision)s, %(event_id)s, %(status)s, %(answer)s,
            coalesce(%(decided_at)s::timestamptz, now()))
    ON CONFLICT DO NOTHING RETURNING revision
"""
_LEFT = """
    SELECT tenant, request_id, reason FROM replay_answers WHERE run = %(run)s AND outcome = 'left'
    ORDER BY decided_at, request_id
"""
