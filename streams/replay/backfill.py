"""Backfill: a run's answers into the source lane, each as the next revision of its request's answer.

An answer that a consumer corrected meanwhile is left alone: somebody looked at it, and relies on what it says. What
was done to each answer is a row, written with the revision, so that a run that is killed and resumed gives none two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from processors.postgres import Connection, Database
from schemas.codec import Codec
from schemas.errors import PoisonError
from schemas.records import Answer, Feedback
from streams.replay.run import Run

CORRECTED = "corrected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """An answer that a backfill left alone, and why."""

    tenant: str
    request_id: str
    reason: str


class Backfill(Protocol):
    """Gives answers their next revision."""

    async def revise(self, answer: Answer) -> Answer | None:
        """The answer as it is to be published, final now; ``None`` for one that is left alone.

        The same run gets the same answer again. Blocks on one transaction; raises ``DependencyDownError``.
        """
        ...


class PostgresBackfill:
    """Backfill by the tables ``finals``, ``feedback`` and ``replay_answers``."""

    def __init__(self, database: Database, codec: Codec, run: Run) -> None:
        self._database, self._codec, self._run = database, codec, run

    async def revise(self, answer: Answer) -> Answer | None:
        lane, meta = self._run.source_lane, answer.meta
        moved = replace(answer, meta=replace(meta, lane=lane))
        key = {"run": self._run.run, "tenant": meta.tenant, "lane": lane, "request_id": meta.request_id}

        async def work(connection: Connection) -> bytes | None:
            await connection.execute(_LOCK, key)
            row = await (await connection.execute(_KNOWN, key)).fetchone()
            if row is not None:
                outcome, stored = row
                return None if outcome == "left" or stored is None else bytes(stored)
            if self._corrected(await (await connection.execute(_FEEDBACK, key)).fetchall()):
                await connection.execute(_LEAVE, {**key, "reason": CORRECTED})
                return None
            while True:
                latest = await (await connection.execute(_LATEST, key)).fetchone()
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

    def _corrected(self, rows: Sequence[tuple[Any, ...]]) -> bool:
        """Whether a text took the answer's place; a rating is no more than an opinion on it."""
        for (value,) in rows:
            try:
                if self._codec.decode(bytes(value), Feedback).correction is not None:
                    return True
            except PoisonError:
                # What can't be read may say so.
                return True
        return False


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
        self._lane = lane

    async def revise(self, answer: Answer) -> Answer | None:
        key = (answer.meta.tenant, answer.meta.request_id)
        if key not in self.given:
            before: Any = self.final.get(key)
            latest = None if before is None else (before.revision, before.meta.event_id)
            moved = replace(answer, meta=replace(answer.meta, lane=self._lane))
            self.given[key] = None if key[1] in self.corrected else _following(moved, latest)
        found = self.given[key]
        if found is not None:
            self.final[key] = found
        return found


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
_LEAVE = """
    INSERT INTO replay_answers (run, tenant, lane, request_id, outcome, reason)
    VALUES (%(run)s, %(tenant)s, %(lane)s, %(request_id)s, 'left', %(reason)s)
"""
_NOTE = """
    INSERT INTO replay_answers (run, tenant, lane, request_id, outcome, revision)
    VALUES (%(run)s, %(tenant)s, %(lane)s, %(request_id)s, 'revised', %(revision)s)
"""
_LATEST = """
    SELECT revision, event_id FROM finals
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
