"""Idempotency: which request holds a key, as Stripe does it, and which body a request id stands for.

Per (tenant, lane, scope, key) the first reservation wins for good. The lane is part of the key because a replay's lane
must not use up the keys of live traffic, nor find its own requests to be copies of it; it reserves its own. So a key
repeated in another lane is another request.

A reservation proves nothing about publication: the request that holds it always goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from processors.alone import one_by_one
from processors.batching import Together
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


@dataclass(frozen=True, slots=True)
class _Asked:
    claimant: Claimant
    scope: Scope
    key: str
    ruling: Ruling

    @property
    def place(self) -> tuple[str, ...]:
        return self.claimant.tenant, self.claimant.lane, self.scope, self.key


class PostgresIdempotency:
    """Reservations in the table ``idempotency``. Those that come together share a statement, as do rulings."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reserving = Together(one_by_one(self._reserve))
        self._together = Together(self._rule)

    async def reserve(
        self, claimant: Claimant, key: str, *, scope: Scope = "key", ruling: Ruling = UNASKED
    ) -> Reservation:
        # No row comes back when another's insert committed after this statement's snapshot: the next one sees it.
        for _ in range(3):
            found = await self._reserving.ask(_Asked(claimant, scope, key, ruling))
            if found is not None:
                return found
        raise DependencyDownError("postgres", "the idempotency row was removed while it was reserved")

    async def _reserve(self, asked: Sequence[_Asked]) -> Sequence[Reservation | None]:
        # Of several that ask for one key the first may get it; the others are told who holds it.
        first: dict[tuple[str, ...], int] = {}
        for number, one in enumerate(asked):
            first.setdefault(one.place, number)
        chosen = [asked[number] for number in first.values()]
        parameters = {name: [getattr(one.claimant, name) for one in chosen] for name in _CLAIMANT}
        parameters |= {"scope": [one.scope for one in chosen], "key": [one.key for one in chosen]}
        parameters |= {"ruling": [one.ruling.verdict for one in chosen], "ruled_by": [one.ruling.by for one in chosen]}
        parameters |= {"ruled_until": [one.ruling.until for one in chosen]}
        rows = await self._database.execute(_RESERVE, parameters)
        held = {chosen[place - 1].place: row for place, *row in rows}
        return [
            _reservation(one.claimant, *held[one.place], first=first[one.place] == number)
            if one.place in held
            else None
            for number, one in enumerate(asked)
        ]

    async def rule(self, claimant: Claimant, ruling: Ruling, *, was: Ruling) -> Ruling:
        return await self._together.ask((claimant, ruling, was))

    async def _rule(self, asked: Sequence[tuple[Claimant, Ruling, Ruling]]) -> Sequence[Ruling]:
        # A statement updates a row once: of two deliveries of one request the first is asked for, the other is told.
        first = {_place(one): number for number, (one, *_) in reversed(list(enumerate(asked)))}
        rows = [asked[number] for number in sorted(first.values())]
        parameters = {
            "tenants": [one.tenant for one, _, _ in rows],
            "lanes": [one.lane for one, _, _ in rows],
            "keys": [one.request_id for one, _, _ in rows],
            "rulings": [ruling.verdict for _, ruling, _ in rows],
            "by": [ruling.by for _, ruling, _ in rows],
            "until": [ruling.until for _, ruling, _ in rows],
            "was": [was.verdict for *_, was in rows],
            "was_by": [was.by for *_, was in rows],
        }
        found = await self._database.execute(_RULE, parameters)
        kept = {first[tenant, lane, key] for tenant, lane, key in found}
        return [ours if number in kept else await self._ruled(one) for number, (one, ours, _) in enumerate(asked)]

    async def _ruled(self, claimant: Claimant) -> Ruling:
        key = {"tenant": claimant.tenant, "lane": claimant.lane, "key": claimant.request_id}
        rows = await self._database.execute(_RULED, key)
        if not rows:
            raise DependencyDownError("postgres", "the idempotency row was removed while it was decided")
        return _ruling(*rows[0])


_CLAIMANT = ("tenant", "lane", "request_id", "body_hash", "control_offset", "accepted_at")
# Rows are written in the order of their keys, so that two workers never wait for each other in a circle.
_RESERVE = """
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest(%(tenant)s::text[], %(lane)s::text[], %(scope)s::text[], %(key)s::text[],
                             %(request_id)s::text[], %(body_hash)s::text[], %(control_offset)s::bigint[],
                             %(accepted_at)s::timestamptz[], %(ruling)s::text[], %(ruled_by)s::text[],
                             %(ruled_until)s::timestamptz[]) WITH ORDINALITY
            AS asked (tenant, lane, scope, key, request_id, body_hash, control_offset, accepted_at, ruling, ruled_by,
                      ruled_until, place)),
    reserved AS (
        INSERT INTO idempotency (tenant, lane, scope, key, request_id, body_hash, control_offset, accepted_at,
                                 ruling, ruled_by, ruled_until)
        SELECT tenant, lane, scope, key, request_id, body_hash, control_offset, accepted_at, ruling, ruled_by,
               ruled_until
        FROM asked ORDER BY tenant, lane, scope, key
        ON CONFLICT DO NOTHING
        RETURNING *)
    SELECT place, true, r.request_id, r.body_hash, r.control_offset, r.accepted_at, r.ruling, r.ruled_by,
           r.ruled_until
    FROM asked JOIN reserved AS r USING (tenant, lane, scope, key)
    UNION ALL
    SELECT place, false, i.request_id, i.body_hash, i.control_offset, i.accepted_at, i.ruling, i.ruled_by,
           i.ruled_until
    FROM asked JOIN idempotency AS i USING (tenant, lane, scope, key)
"""
# Rows are locked in the order of their keys, so that two workers never wait for each other in a circle.
_RULE = """
    WITH asked AS (
        SELECT * FROM unnest(%(tenants)s::text[], %(lanes)s::text[], %(keys)s::text[], %(rulings)s::text[],
                             %(by)s::text[], %(until)s::timestamptz[], %(was)s::text[], %(was_by)s::text[])
            AS asked (tenant, lane, key, ruling, ruled_by, ruled_until, was, was_by)),
    locked AS (
        SELECT i.tenant, i.lane, i.key FROM idempotency AS i JOIN asked USING (tenant, lane, key)
        WHERE i.scope = 'request' ORDER BY i.tenant, i.lane, i.key FOR UPDATE OF i)
    UPDATE idempotency AS i
    SET ruling = asked.ruling, ruled_by = asked.ruled_by, ruled_until = asked.ruled_until
    FROM asked JOIN locked USING (tenant, lane, key)
    WHERE i.tenant = asked.tenant AND i.lane = asked.lane AND i.scope = 'request' AND i.key = asked.key
      AND i.ruling = asked.was AND i.ruled_by = asked.was_by
    RETURNING i.tenant, i.lane, i.key
"""
_RULED = """
    SELECT ruling, ruled_by, ruled_until FROM idempotency
    WHERE tenant = %(tenant)s AND lane = %(lane)s AND scope = 'request' AND key = %(key)s
"""


def _place(claimant: Claimant) -> tuple[str, str, str]:
    return claimant.tenant, claimant.lane, claimant.request_id


def _ruling(verdict: Verdict, by: str, until: datetime | None) -> Ruling:
    return Ruling(verdict=verdict, by=by, until=None if until is None else until.astimezone(UTC))


def _reservation(
    claimant: Claimant, new: bool, request_id: str, body_hash: str, control_offset: int, accepted_at: datetime,
    *ruling: Any, first: bool,
) -> Reservation:  # fmt: skip
    return Reservation(
        outcome=_outcome(claimant, request_id, body_hash),
        new=new and first,
        request_id=request_id,
        body_hash=body_hash,
        control_offset=control_offset,
        accepted_at=accepted_at.astimezone(UTC),
        ruling=_ruling(*ruling),
    )


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
