"""The evaluate stage's store in the tables ``evaluations``, ``feedback`` and ``finals``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, LiteralString

import orjson

from processors.alone import one_by_one
from processors.batching import Together
from processors.evaluate.store import Received, Stored, Subject, said_otherwise
from processors.postgres import Database
from schemas.errors import DependencyDownError
from schemas.records import Score

# Both halves of a statement see one snapshot: a row that another commits after it was taken stops the insert and is
# not seen by the select. A second statement sees it; a third is needed only if the row was deleted in between.
_TRIES = 3


class PostgresEvaluations:
    """An ``EvaluationStore`` in Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Asked for every answer, where nearly none has any.
        self._waiting = Together(one_by_one(self._waiting_for))

    async def expect(self, subject: Subject) -> Stored:
        fresh, value, cost = await self._row(_EXPECT, asdict(subject))
        return Stored(value=_bytes(value), cost=_bytes(cost), fresh=fresh)

    async def finish(
        self, subject: Subject, *, scores: Sequence[Score], value: bytes, cost: bytes | None = None
    ) -> Stored:
        told = [
            {
                "name": score.name,
                "scorer": score.scorer,
                "version": score.scorer_version,
                "value": score.value,
                "failure_code": score.failure_code,
            }
            for score in scores
        ]
        parameters = {**asdict(subject), "scores": orjson.dumps(told).decode(), "value": value, "cost": cost}
        fresh, kept, paid = await self._row(_FINISH, parameters)
        return Stored(value=_bytes(kept), cost=_bytes(paid), fresh=fresh)

    async def receive(self, received: Received) -> bool:
        fresh, digest = await self._row(_RECEIVE, asdict(received))
        if digest != received.digest:
            raise said_otherwise()
        return bool(fresh)

    async def joined(self, received: Received, answer_event_id: str) -> None:
        await self._database.execute(_JOINED, {**asdict(received), "answer_event_id": answer_event_id})

    async def waiting(self, subject: Subject) -> list[bytes]:
        return await self._waiting.ask(subject)

    async def _waiting_for(self, subjects: Sequence[Subject]) -> Sequence[list[bytes]]:
        parameters = {
            name: [getattr(subject, name) for subject in subjects]
            for name in ("tenant", "lane", "request_id", "answer_event_id")
        }
        found: list[list[bytes]] = [[] for _ in subjects]
        for place, value in await self._database.execute(_WAITING, parameters):
            found[place - 1].append(bytes(value))
        return found

    async def answer(self, tenant: str, lane: str, request_id: str, event_id: str | None) -> bytes | None:
        parameters = {"tenant": tenant, "lane": lane, "request_id": request_id, "event_id": event_id}
        rows = await self._database.execute(_ANSWER, parameters)
        return bytes(rows[0][0]) if rows else None

    async def _row(self, statement: LiteralString, parameters: dict[str, Any]) -> tuple[Any, ...]:
        for _ in range(_TRIES):
            rows = await self._database.execute(statement, parameters)
            if rows:
                return rows[0]
        raise DependencyDownError("postgres", "a row was removed while it was written")


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


_EXPECT = """
    WITH noted AS (
        INSERT INTO evaluations
            (tenant, lane, request_id, event_id, answer_event_id, source, route, model, prompt_version)
        VALUES (%(tenant)s, %(lane)s, %(request_id)s, %(event_id)s, %(answer_event_id)s, %(source)s, %(route)s,
                %(model)s, %(prompt_version)s)
        ON CONFLICT DO NOTHING
        RETURNING true, value, cost)
    SELECT * FROM noted
    UNION ALL
    SELECT false, value, cost FROM evaluations
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s AND event_id = %(event_id)s
    LIMIT 1
"""
_FINISH = """
    WITH done AS (
        INSERT INTO evaluations
            (tenant, lane, request_id, event_id, answer_event_id, source, route, model, prompt_version, scores, value,
             cost, done_at)
        VALUES (%(tenant)s, %(lane)s, %(request_id)s, %(event_id)s, %(answer_event_id)s, %(source)s, %(route)s,
                %(model)s, %(prompt_version)s, %(scores)s::text::jsonb, %(value)s, %(cost)s, now())
        ON CONFLICT (tenant, lane, request_id, event_id) DO UPDATE
            SET scores = excluded.scores, value = excluded.value, cost = excluded.cost, done_at = excluded.done_at
            WHERE evaluations.value IS NULL
        RETURNING true, value, cost)
    SELECT * FROM done
    UNION ALL
    SELECT false, value, cost FROM evaluations
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s AND event_id = %(event_id)s
      AND value IS NOT NULL
    LIMIT 1
"""
_RECEIVE = """
    WITH kept AS (
        INSERT INTO feedback (tenant, lane, event_id, request_id, digest, value)
        VALUES (%(tenant)s, %(lane)s, %(event_id)s, %(request_id)s, %(digest)s, %(value)s)
        ON CONFLICT DO NOTHING
        RETURNING true, digest)
    SELECT * FROM kept
    UNION ALL
    SELECT false, digest FROM feedback
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND event_id = %(event_id)s
    LIMIT 1
"""
_JOINED = """
    UPDATE feedback SET answer_event_id = %(answer_event_id)s
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND event_id = %(event_id)s AND answer_event_id IS NULL
"""
_WAITING = """
    SELECT place, value
    FROM unnest(%(tenant)s::text[], %(lane)s::text[], %(request_id)s::text[], %(answer_event_id)s::text[])
         WITH ORDINALITY AS asked (tenant, lane, request_id, answered, place)
    JOIN feedback USING (tenant, lane, request_id)
    WHERE answer_event_id IS NULL OR answer_event_id = answered
    ORDER BY place, received_at, event_id
"""
_ANSWER = """
    SELECT answer FROM finals
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND request_id = %(request_id)s
      AND (%(event_id)s::text IS NULL OR event_id = %(event_id)s::text)
    ORDER BY revision DESC LIMIT 1
"""
