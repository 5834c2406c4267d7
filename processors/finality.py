"""Finality: a request's answer is a row, claimed before it is published; later writers publish the first one's bytes.

Revision 0 is the first answer. A later revision replaces the one before it and says so with ``supersedes``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson

from processors.alone import one_by_one
from processors.batching import Together
from processors.postgres import Connection, Database
from schemas.errors import DependencyDownError, PoisonError
from schemas.records import Answer

# Answers are kilobytes each.
_LARGEST = 64


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
        # Those of a worker that come together are claimed in one statement.
        self._together = Together(one_by_one(self._claim), largest=_LARGEST)

    async def claim(self, answer: Answer, value: bytes) -> bytes:
        _check(answer)
        # All of a statement sees one snapshot. When another claim commits after it was taken, the insert finds the row
        # and does nothing, while the select does not see it yet: no row comes back, and a second statement, with a
        # later snapshot, sees it. A third is needed only if the row was deleted in between.
        for _ in range(3):
            stored = await self._together.ask((answer, value))
            if stored is not None:
                return stored
            if answer.revision > 0 and not await self._precedes(answer):
                raise PoisonError(
                    f"revision {answer.revision} must name revision {answer.revision - 1} of the same request "
                    "in supersedes"
                )
        raise DependencyDownError("postgres", "the final row was removed while it was claimed")

    async def _claim(self, asked: Sequence[tuple[Answer, bytes]]) -> Sequence[bytes | None]:
        """What is final of each; ``None`` where that can't be said yet."""
        # Of several for one request the first is claimed, and is everybody's.
        first: dict[tuple[str, str, str, int], int] = {}
        places = [first.setdefault(_key(answer), len(first)) for answer, _ in asked]
        chosen = [places.index(place) for place in range(len(first))]
        rows = [_row(asked[n][0], place) for place, n in enumerate(chosen, 1)]
        parameters = {"rows": orjson.dumps(rows).decode(), "answers": [asked[n][1] for n in chosen]}
        found: list[bytes | None] = [None] * len(chosen)
        for place, stored in await self._database.execute(_CLAIM, parameters):
            found[place - 1] = asked[chosen[place - 1]][1] if stored is None else bytes(stored)
        return [found[place] for place in places]

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


def _key(answer: Answer) -> tuple[str, str, str, int]:
    return answer.meta.tenant, answer.meta.lane, answer.meta.request_id, answer.revision


def _row(answer: Answer, place: int) -> dict[str, Any]:
    meta = answer.meta
    return {
        "place": place,
        "tenant": meta.tenant,
        "lane": meta.lane,
        "request_id": meta.request_id,
        "revision": answer.revision,
        "event_id": meta.event_id,
        "status": answer.status,
        "decided_at": answer.decided_at,
        "supersedes": answer.supersedes,
    }


# A request whose answer is final is in flight no longer: the row that counts it goes in the same transaction. Rows are
# taken in one order by all, so that nobody waits for another who waits for him. No bytes where they are the given ones.
_CLAIM = """
    WITH given AS MATERIALIZED (
        SELECT * FROM json_to_recordset(%(rows)s::json) AS r (
            place integer, tenant text, lane text, request_id text, revision integer, event_id text, status text,
            decided_at timestamptz, supersedes text)),
    counted AS MATERIALIZED (
        SELECT lane, tenant, request_id FROM in_flight JOIN given USING (lane, tenant, request_id)
        ORDER BY lane, tenant, request_id FOR UPDATE OF in_flight),
    gone AS (
        DELETE FROM in_flight USING counted
        WHERE in_flight.lane = counted.lane AND in_flight.tenant = counted.tenant
          AND in_flight.request_id = counted.request_id),
    claimed AS (
        INSERT INTO finals (tenant, lane, request_id, revision, event_id, status, answer, decided_at)
        SELECT tenant, lane, request_id, revision, event_id, status, (%(answers)b::bytea[])[place],
               coalesce(decided_at, now())
        FROM given
        WHERE revision = 0 OR EXISTS (
            SELECT FROM finals AS before
            WHERE before.tenant = given.tenant AND before.lane = given.lane AND before.request_id = given.request_id
              AND before.revision = given.revision - 1 AND before.event_id = given.supersedes)
        ORDER BY tenant, lane, request_id, revision
        ON CONFLICT DO NOTHING
        RETURNING tenant, lane, request_id, revision)
    SELECT place, NULL::bytea FROM given JOIN claimed USING (tenant, lane, request_id, revision)
    UNION ALL
    SELECT place, answer FROM given JOIN finals USING (tenant, lane, request_id, revision)
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
        key = _key(answer)
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
