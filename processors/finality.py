"""Finality: a request's answer is a row, claimed before it is published; later writers publish the first one's bytes.

Revision 0 is the first answer. A later revision replaces the one before it and says so with ``supersedes``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from processors.postgres import Connection, Database
from schemas.errors import DependencyDownError, PoisonError
from schemas.records import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """A final answer as it was claimed; ``value`` is its encoded event."""

    revision: int
    event_id: str
    status: str
    value: bytes


class Finality(Protocol):
    """Makes answers final."""

    async def claim(self, answer: Answer, value: bytes) -> bytes:
        """Make ``answer``, encoded as ``value``, the final one of its request and revision.

        Returns the bytes to publish: ``value``, or those of an earlier writer. Waits for one round trip. Raises
        ``DependencyDownError`` (the claim may have been made: claim again) and ``PoisonError`` for a revision that
        does not name the answer that it replaces.
        """
        ...

    async def supersede(self, answer: Answer, encode: Callable[[Answer], bytes]) -> bytes | None:
        """Make ``answer`` the next revision of its request, once for the run in its meta.

        For a dead letter that was sent through its stage once more: the run's first answer takes the revision after
        the latest one (0 where there is none) and names it in ``supersedes``; a later writer of the same run gets its
        bytes. ``None`` where the run is no re-drive of this request. Waits for one transaction, and for another that
        opens a revision of the same request. Raises ``DependencyDownError``; calling it again is safe.
        """
        ...

    async def get(self, tenant: str, lane: str, request_id: str) -> StoredAnswer | None:
        """The latest revision of a request's final answer; ``None`` while there is none."""
        ...


class PostgresFinality:
    """Finality in the table ``finals``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, answer: Answer, value: bytes) -> bytes:
        _check(answer)
        meta = answer.meta
        parameters = {
            "tenant": meta.tenant,
            "lane": meta.lane,
            "request_id": meta.request_id,
            "revision": answer.revision,
            "event_id": meta.event_id,
            "status": answer.status,
            "answer": value,
            "decided_at": answer.decided_at,
            "supersedes": answer.supersedes,
        }
        # Both halves of the statement see one snapshot. When another claim commits after it was taken, the insert
        # finds the row and does nothing, while the select does not see it yet: no row comes back, and a second
        # statement, with a later snapshot, sees it. A third is needed only if the row was deleted in between.
        for _ in range(3):
            rows = await self._database.execute(_CLAIM, parameters)
            if rows:
                return bytes(rows[0][0])
            if answer.revision > 0 and not await self._precedes(answer):
                raise PoisonError(
                    f"revision {answer.revision} must name revision {answer.revision - 1} of the same request "
                    "in supersedes"
                )
        raise DependencyDownError("postgres", "the final row was removed while it was claimed")

    async def get(self, tenant: str, lane: str, request_id: str) -> StoredAnswer | None:
        rows = await self._database.execute(_GET, {"tenant": tenant, "lane": lane, "request_id": request_id})
        if not rows:
            return None
        revision, event_id, status, answer = rows[0]
        return StoredAnswer(revision=revision, event_id=event_id, status=status, value=bytes(answer))

    async def supersede(self, answer: Answer, encode: Callable[[Answer], bytes]) -> bytes | None:
        meta = answer.meta
        key = {"tenant": meta.tenant, "lane": meta.lane, "request_id": meta.request_id, "run": meta.run}

        async def work(connection: Connection) -> bytes | None:
            # Writers of one run wait for each other here.
            row = await (await connection.execute(_LOCK_RUN, key)).fetchone()
            if row is None:
                return None
            if row[0] is not None:
                stored = await (await connection.execute(_OF_RUN, {**key, "revision": row[0]})).fetchone()
                if stored is not None:
                    return bytes(stored[0])
            while True:
                latest = await (await connection.execute(_LATEST, key)).fetchone()
                revised = _revised(answer, latest)
                value = encode(revised)
                written = {"revision": revised.revision, "event_id": meta.event_id, "status": answer.status}
                written |= {"answer": value, "decided_at": answer.decided_at}
                inserted = await (await connection.execute(_REVISE, {**key, **written})).fetchone()
                if inserted is not None:
                    await connection.execute(_ANSWERED, {**key, **written})
                    return value
                # Another run took that revision since; the next statement sees it.

        return await self._database.run(work)

    async def _precedes(self, answer: Answer) -> bool:
        meta = answer.meta
        rows = await self._database.execute(
            _EVENT_ID,
            {
                "tenant": meta.tenant,
                "lane": meta.lane,
                "request_id": meta.request_id,
                "revision": answer.revision - 1,
            },
        )
        return bool(rows) and rows[0][0] == answer.supersedes


# A request whose answer is final is in flight no longer: the row that counts it goes in the same transaction.
_CLAIM = """
    WITH gone AS (
        DELETE FROM in_flight WHERE lane = %(lane)s AND tenant = %(tenant)s AND request_id = %(request_id)s),
    claimed AS (
        INSERT INTO finals (tenant, lane, request_id, revision, event_id, status, answer, decided_at)
        SELECT %(tenant)s, %(lane)s, %(request_id)s, %(revision)s, %(event_id)s, %(status)s, %(answer)s,
               coalesce(%(decided_at)s::timestamptz, now())
        WHERE %(revision)s = 0 OR EXISTS (
            SELECT FROM finals
            WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s
              AND revision = %(revision)s - 1 AND event_id = %(supersedes)s)
        ON CONFLICT DO NOTHING
        RETURNING answer)
    SELECT answer FROM claimed
    UNION ALL
    SELECT answer FROM finals
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s AND revision = %(revision)s
    LIMIT 1
"""
_GET = """
    SELECT revision, event_id, status, answer FROM finals
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s
    ORDER BY revision DESC LIMIT 1
"""
_EVENT_ID = """
    SELECT event_id FROM finals
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s AND revision = %(revision)s
"""


_LOCK_RUN = """
    SELECT revision FROM redrives
    WHERE run = %(run)s AND lane = %(lane)s
      AND coalesce(tenant, %(tenant)s) = %(tenant)s AND coalesce(request_id, %(request_id)s) = %(request_id)s
    FOR UPDATE
"""
_OF_RUN = """
    SELECT answer FROM finals
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s AND revision = %(revision)s
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
    ON CONFLICT DO NOTHING
    RETURNING revision
"""
_ANSWERED = "UPDATE redrives SET revision = %(revision)s, answered_at = clock_timestamp() WHERE run = %(run)s"


def _revised(answer: Answer, latest: tuple[Any, ...] | None) -> Answer:
    """The answer as the revision after ``latest``: its number and event id."""
    revision, supersedes = (latest[0] + 1, latest[1]) if latest else (0, None)
    return replace(answer, revision=revision, supersedes=supersedes)


class FakeFinality:
    """Finality in memory, with the same rules."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str, str, int], StoredAnswer] = {}
        # Runs of re-drives; each with its answer's revision, once there is one.
        self.runs: dict[str, int | None] = {}
        self.down = False

    async def claim(self, answer: Answer, value: bytes) -> bytes:
        self._reach()
        _check(answer)
        meta = answer.meta
        key = (meta.tenant, meta.lane, meta.request_id, answer.revision)
        if key not in self.stored:
            if answer.revision > 0:
                before = self.stored.get((*key[:3], answer.revision - 1))
                if before is None or before.event_id != answer.supersedes:
                    raise PoisonError(f"revision {answer.revision} does not name the one before it in supersedes")
            self.stored[key] = StoredAnswer(
                revision=answer.revision, event_id=meta.event_id, status=answer.status, value=value
            )
        return self.stored[key].value

    async def supersede(self, answer: Answer, encode: Callable[[Answer], bytes]) -> bytes | None:
        self._reach()
        meta = answer.meta
        if meta.run not in self.runs:
            return None
        key = (meta.tenant, meta.lane, meta.request_id)
        revision = self.runs[meta.run]
        if revision is None:
            latest = await self.get(*key)
            revised = _revised(answer, None if latest is None else (latest.revision, latest.event_id))
            revision = self.runs[meta.run] = revised.revision
            self.stored[(*key, revision)] = StoredAnswer(
                revision=revision, event_id=meta.event_id, status=answer.status, value=encode(revised)
            )
        return self.stored[(*key, revision)].value

    async def get(self, tenant: str, lane: str, request_id: str) -> StoredAnswer | None:
        self._reach()
        found = [stored for key, stored in self.stored.items() if key[:3] == (tenant, lane, request_id)]
        return max(found, key=lambda stored: stored.revision, default=None)

    def _reach(self) -> None:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")


def _check(answer: Answer) -> None:
    if not answer.meta.request_id:
        raise PoisonError("an answer without a request id can't be final")
    if answer.revision < 0 or (answer.revision > 0) != (answer.supersedes is not None):
        raise PoisonError(f"revision {answer.revision}: supersedes must be set from revision 1 on, and only there")
