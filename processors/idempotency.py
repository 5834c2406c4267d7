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


class Idempotency(Protocol):
    """Reserves keys."""

    async def reserve(self, claimant: Claimant, key: str, *, scope: Scope = "key") -> Reservation:
        """Reserve ``key`` unless it is held, and say who holds it. Waits for one round trip.

        Raises ``DependencyDownError``; reserving again is safe.
        """
        ...


class PostgresIdempotency:
    """Reservations in the table ``idempotency``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reserve(self, claimant: Claimant, key: str, *, scope: Scope = "key") -> Reservation:
        parameters = {
            "tenant": claimant.tenant,
            "lane": claimant.lane,
            "scope": scope,
            "key": key,
            "request_id": claimant.request_id,
            "body_hash": claimant.body_hash,
            "control_offset": claimant.control_offset,
            "accepted_at": claimant.accepted_at,
        }
        # No row comes back when another's insert committed after this statement's snapshot: the next one sees it.
        for _ in range(3):
            rows = await self._database.execute(_RESERVE, parameters)
            if rows:
                new, request_id, body_hash, control_offset, accepted_at = rows[0]
                return Reservation(
                    outcome=_outcome(claimant, request_id, body_hash),
                    new=new,
                    request_id=request_id,
                    body_hash=body_hash,
                    control_offset=control_offset,
                    accepted_at=accepted_at.astimezone(UTC),
                )
        raise DependencyDownError("postgres", "the idempotency row was removed while it was reserved")


_RESERVE = """
    WITH reserved AS (
        INSERT INTO idempotency (tenant, lane, scope, key, request_id, body_hash, control_offset, accepted_at)
        VALUES (%(tenant)s, %(lane)s, %(scope)s, %(key)s, %(request_id)s, %(body_hash)s, %(control_offset)s,
                %(accepted_at)s)
        ON CONFLICT DO NOTHING
        RETURNING request_id, body_hash, control_offset, accepted_at)
    SELECT true, request_id, body_hash, control_offset, accepted_at FROM reserved
    UNION ALL
    SELECT false, request_id, body_hash, control_offset, accepted_at FROM idempotency
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND scope = %(scope)s AND key = %(key)s
    LIMIT 1
"""


class FakeIdempotency:
    """Reservations in memory, with the same rules."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str, str, str], Claimant] = {}
        self.down = False

    async def reserve(self, claimant: Claimant, key: str, *, scope: Scope = "key") -> Reservation:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")
        place = (claimant.tenant, claimant.lane, scope, key)
        new = place not in self.held
        holder = self.held.setdefault(place, claimant)
        return Reservation(
            outcome=_outcome(claimant, holder.request_id, holder.body_hash),
            new=new,
            request_id=holder.request_id,
            body_hash=holder.body_hash,
            control_offset=holder.control_offset,
            accepted_at=holder.accepted_at,
        )


def _outcome(claimant: Claimant, request_id: str, body_hash: str) -> Outcome:
    if body_hash != claimant.body_hash:
        return "conflict"
    return "mine" if request_id == claimant.request_id else "repeated"
