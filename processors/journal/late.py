"""Outcomes that came in after their attempts were booked unknown, until the broker has the events that correct them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from processors.journal import sql
from processors.journal.entry import AttemptRow, CallKey
from processors.journal.row import attempt_from
from processors.postgres import Database


@dataclass(frozen=True, slots=True)
class LateOutcome:
    """An attempt with its late outcome; ``input`` is its call's, as the journal has it."""

    key: CallKey
    row: AttemptRow
    input: bytes


class LateOutcomes(Protocol):
    """Every method is one statement; raises ``DependencyDownError``."""

    async def untold(self, lane: str, *, limit: int) -> Sequence[LateOutcome]:
        """Those whose correction the broker may not have. Takes no lock: two workers may tell the same event."""
        ...

    async def told(self, outcomes: Sequence[LateOutcome]) -> None:
        """Note that the broker has their corrections."""
        ...


class PostgresLateOutcomes:
    """``LateOutcomes`` in the journal's tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def untold(self, lane: str, *, limit: int) -> Sequence[LateOutcome]:
        rows = await self._database.execute(_UNTOLD, {"lane": lane, "limit": limit})
        names, found = sql.ATTEMPT_NAMES, []
        for tenant, run, request_id, purpose, ordinal, data, *values in rows:
            key = CallKey(tenant=tenant, lane=lane, run=run, request_id=request_id, purpose=purpose, ordinal=ordinal)
            found.append(LateOutcome(key, attempt_from(dict(zip(names, values, strict=True))), data))
        return found

    async def told(self, outcomes: Sequence[LateOutcome]) -> None:
        await self._database.execute(_TOLD, {"attempt_ids": [one.row.attempt_id for one in outcomes]})


@dataclass(slots=True)
class FakeLateOutcomes:
    """Late outcomes in memory, all of one lane."""

    waiting: list[LateOutcome] = field(default_factory=list)

    async def untold(self, lane: str, *, limit: int) -> Sequence[LateOutcome]:
        return [one for one in self.waiting if one.key.lane == lane][:limit]

    async def told(self, outcomes: Sequence[LateOutcome]) -> None:
        self.waiting = [one for one in self.waiting if one not in outcomes]


_UNTOLD = f"""
SELECT c.tenant, c.run, c.request_id, c.purpose, c.ordinal, c.input, {", ".join(f"a.{n}" for n in sql.ATTEMPT_NAMES)}
FROM attempts AS a JOIN calls AS c USING (call_id)
WHERE a.late_at IS NOT NULL AND a.late_told_at IS NULL AND c.lane = %(lane)s
ORDER BY a.late_at LIMIT %(limit)s
"""
_TOLD = "UPDATE attempts SET late_told_at = clock_timestamp() WHERE attempt_id = ANY(%(attempt_ids)s::uuid[])"
