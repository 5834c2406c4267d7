"""Finality: a request's answer is a row, claimed before it is published; later writers publish the first one's bytes.

Revision 0 is the first answer. A later revision replaces the one before it and says so with ``supersedes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from processors.postgres import Database
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


_CLAIM = """
    WITH claimed AS (
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


class FakeFinality:
    """Finality in memory, with the same rules."""

    def __init__(self) -> None:
        self.stored: dict[tuple[str, str, str, int], StoredAnswer] = {}
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
