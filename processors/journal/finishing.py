"""Books results: those of a worker that come together, in one statement.

What does not fit, a call with several attempts or one that has a later owner, takes several round trips, see
``postgres``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from processors.alone import one_by_one
from processors.batching import Together
from processors.journal.entry import AttemptRow, Lease, Settled
from processors.journal.row import attempt_from_columns, settled_parameters
from processors.journal.sql import ATTEMPT_COLUMNS
from processors.postgres import Database

_LARGEST = 64


@dataclass(frozen=True, slots=True)
class _Asked:
    lease: Lease
    attempt_id: str
    settled: Settled
    result: bytes


class Finishing:
    """Results of one worker's calls."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._together = Together(one_by_one(self._finish), largest=_LARGEST)

    async def finish(
        self, lease: Lease, attempt_id: str, settled: Settled, result: bytes
    ) -> tuple[AttemptRow, ...] | None:
        """Book the result of a call with one attempt; the attempt. ``None``, and nothing is booked, for any other call.

        Waits for the statement that is under way, and for its own. Raises ``DependencyDownError``.
        """
        answer = await self._together.ask(_Asked(lease, attempt_id, settled, result))
        return None if answer is None else (answer,)

    async def _finish(self, asked: Sequence[_Asked]) -> Sequence[AttemptRow | None]:
        first: dict[str, int] = {}
        for n, one in enumerate(asked):
            first.setdefault(one.attempt_id, n)
        chosen = list(first.values())
        rows = [_row(asked[n], place) for place, n in enumerate(chosen, 1)]
        parameters = {"rows": orjson.dumps(rows).decode(), "results": [asked[n].result for n in chosen]}
        booked = {place: columns for place, _, *columns in await self._database.execute(_FINISH, parameters)}
        found: list[AttemptRow | None] = [None] * len(asked)
        for place, n in enumerate(chosen, 1):
            if place in booked:
                found[n] = attempt_from_columns(booked[place])
        return found


def _row(asked: _Asked, place: int) -> dict[str, Any]:
    return {
        "place": place,
        "call_id": asked.lease.key.call_id,
        "lease_epoch": asked.lease.epoch,
        "attempt_id": asked.attempt_id,
        **settled_parameters(asked.settled),
    }


# The rows are locked in the order of their ids, as a renewal of leases locks them.
_FINISH = f"""
WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS r (
        place integer, call_id uuid, lease_epoch integer, attempt_id uuid, state text, error_class text,
        error_code text, http_status integer, response_id text, duration_ms double precision,
        first_token_ms double precision, prompt_tokens bigint, completion_tokens bigint, cached_prompt_tokens bigint,
        cache_write_tokens bigint, reasoning_tokens bigint, usage_estimated boolean, usage_details jsonb,
        cost_usd numeric, estimated boolean, upper_bound boolean)
), held AS MATERIALIZED (
    SELECT c.call_id FROM calls AS c JOIN given AS g USING (call_id)
    WHERE c.lease_epoch = g.lease_epoch AND c.state = 'calling'
      AND NOT EXISTS (SELECT FROM attempts AS a WHERE a.call_id = g.call_id AND a.attempt_id <> g.attempt_id)
    ORDER BY c.call_id FOR UPDATE OF c
), ended AS (
    UPDATE calls AS c
    SET state = 'done', result = (%(results)b::bytea[])[g.place], lease_until = NULL, updated_at = clock_timestamp()
    FROM held JOIN given AS g USING (call_id)
    WHERE c.call_id = held.call_id AND c.lease_epoch = g.lease_epoch AND c.state = 'calling'
    RETURNING c.call_id, c.updated_at
), closed AS (
    UPDATE attempts AS a
    SET state = g.state, ended_at = ended.updated_at, error_class = g.error_class, error_code = g.error_code,
        http_status = g.http_status, response_id = g.response_id, duration_ms = g.duration_ms,
        first_token_ms = g.first_token_ms, prompt_tokens = g.prompt_tokens, completion_tokens = g.completion_tokens,
        cached_prompt_tokens = g.cached_prompt_tokens, cache_write_tokens = g.cache_write_tokens,
        reasoning_tokens = g.reasoning_tokens, usage_estimated = g.usage_estimated, usage_details = g.usage_details,
        cost_usd = g.cost_usd, estimated = g.estimated, upper_bound = g.upper_bound
    FROM ended JOIN given AS g USING (call_id) WHERE a.attempt_id = g.attempt_id
    RETURNING g.place, {", ".join(f"a.{name.strip()}" for name in ATTEMPT_COLUMNS.split(","))}
)
SELECT place, set_config('synchronous_commit', 'on', true), {ATTEMPT_COLUMNS} FROM closed
"""
