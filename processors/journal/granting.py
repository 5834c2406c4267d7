"""Grants calls that are made for the first time: those of a worker that come together, in one statement.

Claims of a call that is there already take several round trips, see ``postgres``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import orjson

from processors.alone import one_by_one
from processors.batching import Together
from processors.journal.entry import AttemptRow, Granted, Lease, Offer, Target
from processors.journal.row import key_parameters, opening_parameters
from processors.postgres import Database

_LOG = logging.getLogger(__name__)
# So many inputs are a megabyte at most, as a rule.
_LARGEST = 64
_SMALLEST_USD = Decimal("0.000000000001")


@dataclass(frozen=True, slots=True)
class _Asked:
    offer: Offer
    owner: str

    @property
    def lease(self) -> Lease:
        return Lease(key=self.offer.key, owner=self.owner, epoch=1)


class Granting:
    """Grants of one worker's new calls."""

    def __init__(self, database: Database, *, lease_s: float) -> None:
        self._database, self._lease_s = database, lease_s
        self._together = Together(one_by_one(self._grant), largest=_LARGEST, unheard=self._take_back)

    async def grant(self, offer: Offer, *, owner: str) -> Granted | None:
        """The grant of a call that nobody asked for before, committed; ``None`` where there is more to decide.

        Waits for the statement that is under way, and for its own. Raises ``DependencyDownError``.
        """
        return await self._together.ask(_Asked(offer, owner))

    async def _grant(self, asked: Sequence[_Asked]) -> Sequence[Granted | None]:
        # A call that is asked for twice at once is granted once; the other one finds it taken.
        first: dict[str, int] = {}
        for n, one in enumerate(asked):
            first.setdefault(one.offer.key.call_id, n)
        chosen = list(first.values())
        rows = [_row(asked[n], place, self._lease_s) for place, n in enumerate(chosen, 1)]
        parameters = {"rows": orjson.dumps(rows).decode(), "inputs": [asked[n].offer.input for n in chosen]}
        begun = {place: at for place, at, _ in await self._database.execute(_GRANT, parameters)}
        found: list[Granted | None] = [None] * len(asked)
        for place, n in enumerate(chosen, 1):
            if place in begun:
                found[n] = _granted(asked[n], begun[place])
        return found

    async def _take_back(self, asked: _Asked, answer: Granted | None) -> None:
        """Nobody waits for this grant any more, so nothing was sent: what was lost must not be booked as spent."""
        if answer is not None:
            try:
                await self._database.execute(_TAKE_BACK, {"call_id": asked.offer.key.call_id, "owner": asked.owner})
            except Exception as error:
                # Then its lease runs out, and it counts as lost.
                _LOG.warning("a grant that nobody waits for could not be taken back: %s", type(error).__name__)


def _row(asked: _Asked, place: int, lease_s: float) -> dict[str, Any]:
    offer = asked.offer
    opening = opening_parameters(asked.lease, offer.target, 0)
    return {
        **opening,
        **key_parameters(offer.key),
        "upper_bound_usd": str(opening["upper_bound_usd"]),
        "place": place,
        "input_hash": offer.input_hash,
        "owner": asked.owner,
        "lease_s": lease_s,
        "unwanted": offer.expired or offer.cancelled or offer.refused is not None,
        "expires_at": offer.expires_at,
    }


def _granted(asked: _Asked, at: datetime) -> Granted:
    offer, lease = asked.offer, asked.lease
    attempt = AttemptRow(
        attempt_id=offer.key.attempt_id(0),
        ordinal=0,
        epoch=lease.epoch,
        target=_kept(offer.target),
        state="calling",
        started_at=at,
    )
    return Granted(lease=lease, attempt=attempt, earlier=(), input=offer.input, input_hash=offer.input_hash)


def _kept(target: Target) -> Target:
    """As the tables give it back: with so many digits of money."""
    usd = target.bound.usd
    rounded = usd.quantize(_SMALLEST_USD, rounding=ROUND_HALF_UP)
    return target if rounded == usd else replace(target, bound=replace(target.bound, usd=rounded))


# No row for a call that is there already, whatever its state, or may not be begun any more. In the order of their ids,
# so that two workers that are given the same calls wait for one another and not each for the other.
_GRANT = """
WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS r (
        place integer, call_id uuid, tenant text, lane text, run text, request_id text, purpose text, ordinal integer,
        input_hash text, owner text, lease_s double precision, unwanted boolean, expires_at timestamptz,
        attempt_id uuid, route text, deployment text, provider text, model text, price_source text, account text,
        stage_version text, control_offset bigint, bound_prompt_tokens bigint, bound_completion_tokens bigint,
        upper_bound_usd numeric)
), new AS (
    INSERT INTO calls (call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash, input,
        state, lease_owner, lease_epoch, lease_until)
    SELECT call_id, tenant, lane, run, request_id, purpose, ordinal, input_hash, (%(inputs)b::bytea[])[place],
        'calling', owner, 1, clock_timestamp() + make_interval(secs => lease_s)
    FROM given WHERE NOT unwanted AND coalesce(expires_at > clock_timestamp(), true) ORDER BY call_id
    ON CONFLICT DO NOTHING
    RETURNING call_id
), opened AS (
    INSERT INTO attempts (attempt_id, call_id, ordinal, epoch, route, deployment, provider, model, price_source,
        account, stage_version, control_offset, bound_prompt_tokens, bound_completion_tokens,
        upper_bound_usd, state, started_at)
    SELECT attempt_id, call_id, 0, 1, route, deployment, provider, model, price_source, account, stage_version,
        control_offset, bound_prompt_tokens, bound_completion_tokens, upper_bound_usd, 'calling', clock_timestamp()
    FROM given JOIN new USING (call_id)
    RETURNING call_id, started_at
)
SELECT place, started_at, set_config('synchronous_commit', 'on', true) FROM given JOIN opened USING (call_id)
"""
_TAKE_BACK = """
DELETE FROM calls WHERE call_id = %(call_id)s AND state = 'calling' AND lease_epoch = 1 AND lease_owner = %(owner)s
"""
