"""Idempotency: which request holds a key, as Stripe does it, and which body a request id stands for.

Per (tenant, lane, scope, key) the first reservation wins for good. The lane is part of the key because a replay's lane
must not use up the keys of live traffic, nor find its own requests to be copies of it; it reserves its own. So a key
repeated in another lane is another request.

A reservation proves nothing about publication: the request that holds it always goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

from processors.postgres import Database
from processors.ruling import UNASKED, Ruling, Verdict
from schemas.errors import DependencyDownError

# ``key``: what a producer sent as idempotency key. ``request``: a request id, which must not stand for two bodies.
Scope = Literal["key", "request"]
# ``mine``: this request holds it, with this body. ``repeated``: another request holds it, with the same body.
# ``conflict``: it is held for another body.
Outcome = Literal["mine", "repeated", "conflict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who asks for a key, and what is remembered with it when it is theirs."""

    tenant: str
    lane: str
    request_id: str
    body_hash: str
    control_offset: int
    accepted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Who holds a key. ``control_offset`` and ``accepted_at`` are those of the holder's first delivery."""

    outcome: Outcome
    new: bool
    request_id: str
    body_hash: str
    control_offset: int
    accepted_at: datetime
    ruling: Ruling = UNASKED


class Idempotency(Protocol):
    """Reserves keys."""

    async def reserve(
        self, claimant: Claimant, key: str, *, scope: Scope = "key", ruling: Ruling = UNASKED
    ) -> Reservation:
        """Reserve ``key`` unless it is held, and say who holds it. Waits for one round trip.

        ``ruling`` is kept with a new reservation. Raises ``DependencyDownError``; reserving again is safe.
        """
        ...

    async def rule(self, claimant: Claimant, ruling: Ruling, *, was: Ruling) -> Ruling:
        """Keep what the limits say to a request, if what was kept until now is ``was``; returns what is kept then:
        ``ruling`` itself, or another one that came first.

        Waits for one round trip. Raises ``DependencyDownError``; calling it again is safe.
        """
        ...


class PostgresIdempotency:
    """Reservations in the table ``idempotency``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reserve(
        self, claimant: Claimant, key: str, *, scope: Scope = "key", ruling: Ruling = UNASKED
    ) -> Reservation:
        parameters = {
            "tenant": claimant.tenant,
            "lane": claimant.lane,
            "scope": scope,
            "key": key,
            "request_id": claimant.request_id,
            "body_hash": claimant.body_hash,
            "control_offset": claimant.control_offset,
            "accepted_at": claimant.accepted_at,
            **_ruling_parameters(ruling),
        }
        # No row comes back when another's insert committed after this statement's snapshot: the next one sees it.
        for _ in range(3):
            rows = await self._database.execute(_RESERVE, parameters)
            if rows:
                new, request_id, body_hash, control_offset, accepted_at, *kept = rows[0]
                return Reservation(
                    outcome=_outcome(claimant, request_id, body_hash),
                    new=new,
                    request_id=request_id,
                    body_hash=body_hash,
                    control_offset=control_offset,
                    accepted_at=accepted_at.astimezone(UTC),
                    ruling=_ruling(*kept),
                )
        raise DependencyDownError("postgres", "the idempotency row was removed while it was reserved")

    async def rule(self, claimant: Claimant, ruling: Ruling, *, was: Ruling) -> Ruling:
        parameters = {
            "tenant": claimant.tenant,
            "lane": claimant.lane,
            "key": claimant.request_id,
            "was": was.verdict,
            "was_by": was.by,
            **_ruling_parameters(ruling),
        }
        if await self._database.execute(_RULE, parameters):
            return ruling
        rows = await self._database.execute(_RULED, parameters)
        if not rows:
            raise DependencyDownError("postgres", "the idempotency row was removed while it was decided")
        return _ruling(*rows[0])


_RESERVE = """
    WITH reserved AS (
        INSERT INTO idempotency (tenant, lane, scope, key, request_id, body_hash, control_offset, accepted_at,
                                 ruling, ruled_by, ruled_until)
        VALUES (%(tenant)s, %(lane)s, %(scope)s, %(key)s, %(request_id)s, %(body_hash)s, %(control_offset)s,
                %(accepted_at)s, %(ruling)s, %(ruled_by)s, %(ruled_until)s)
        ON CONFLICT DO NOTHING
        RETURNING request_id, body_hash, control_offset, accepted_at, ruling, ruled_by, ruled_until)
    SELECT true, request_id, body_hash, control_offset, accepted_at, ruling, ruled_by, ruled_until FROM reserved
    UNION ALL
    SELECT false, request_id, body_hash, control_offset, accepted_at, ruling, ruled_by, ruled_until FROM idempotency
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND scope = %(scope)s AND key = %(key)s
    LIMIT 1
"""
_RULE = """
    UPDATE idempotency SET ruling = %(ruling)s, ruled_by = %(ruled_by)s, ruled_until = %(ruled_until)s
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND scope = 'request' AND key = %(key)s
      AND ruling = %(was)s AND ruled_by = %(was_by)s
    RETURNING true
"""
_RULED = """
    SELECT ruling, ruled_by, ruled_until FROM idempotency
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND scope = 'request' AND key = %(key)s
"""


def _ruling(verdict: Verdict, by: str, until: datetime | None) -> Ruling:
    return Ruling(verdict=verdict, by=by, until=None if until is None else until.astimezone(UTC))


def _ruling_parameters(ruling: Ruling) -> dict[str, object]:
    return {"ruling": ruling.verdict, "ruled_by": ruling.by, "ruled_until": ruling.until}


class FakeIdempotency:
    """Reservations in memory, with the same rules."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str, str, str], Claimant] = {}
        self.rulings: dict[tuple[str, str, str, str], Ruling] = {}
        self.down = False

    async def reserve(
        self, claimant: Claimant, key: str, *, scope: Scope = "key", ruling: Ruling = UNASKED
    ) -> Reservation:
        self._reach()
        place = (claimant.tenant, claimant.lane, scope, key)
        new = place not in self.held
        holder = self.held.setdefault(place, claimant)
        kept = self.rulings.setdefault(place, ruling)
        return Reservation(
            outcome=_outcome(claimant, holder.request_id, holder.body_hash),
            new=new,
            request_id=holder.request_id,
            body_hash=holder.body_hash,
            control_offset=holder.control_offset,
            accepted_at=holder.accepted_at,
            ruling=kept,
        )

    async def rule(self, claimant: Claimant, ruling: Ruling, *, was: Ruling) -> Ruling:
        self._reach()
        place: tuple[str, str, str, str] = (claimant.tenant, claimant.lane, "request", claimant.request_id)
        if (self.rulings[place].verdict, self.rulings[place].by) == (was.verdict, was.by):
            self.rulings[place] = ruling
        return self.rulings[place]

    def _reach(self) -> None:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")


def _outcome(claimant: Claimant, request_id: str, body_hash: str) -> Outcome:
    if body_hash != claimant.body_hash:
        return "conflict"
    return "mine" if request_id == claimant.request_id else "repeated"
