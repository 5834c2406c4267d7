"""How many requests of a tenant are in the stream at a time: admitted, and not final yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol

from processors.batching import Together
from processors.clock import Clock
from processors.postgres import Connection, Database
from schemas.errors import DependencyDownError

# A tenant that was full is not asked for again before this: in a flood most requests are set aside without a look.
FULL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entering:
    """A request that wants in; it counts until its time to live ends, or its answer is final."""

    request_id: str
    until: datetime


class InFlight(Protocol):
    """Counts the requests of tenants with a cap. One transaction a call; raises ``DependencyDownError``.

    A request leaves when its answer is made final: whoever claims finality takes its row away with it.
    """

    async def enter(
        self, lane: str, tenant: str, cap: int, requests: Sequence[Entering], *, first: bool = False
    ) -> frozenset[str]:
        """Let in as many as there is room for, in their order; the ids of those that are in, old ones included.

        Nobody new is let in while others of the tenant wait before admission, unless they are the ``first`` of these.
        """
        ...

    async def room(self, lane: str, tenant: str, cap: int) -> int:
        """How many more may come in."""
        ...

    async def leave(self, lane: str, tenant: str, request_id: str) -> None:
        """Take a request out that does not go on now."""
        ...


class PostgresInFlight:
    """Requests in the table ``in_flight``; a tenant's row in ``in_flight_tenants`` is locked while they are counted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enter(
        self, lane: str, tenant: str, cap: int, requests: Sequence[Entering], *, first: bool = False
    ) -> frozenset[str]:
        parameters = {
            "lane": lane,
            "tenant": tenant,
            "cap": cap,
            "first": first,
            "ids": [one.request_id for one in requests],
            "untils": [one.until for one in requests],
        }

        async def work(connection: Connection) -> frozenset[str]:
            if await (await connection.execute(_LOCK, parameters)).fetchone() is None:
                await connection.execute(_MAKE, parameters)
                await connection.execute(_LOCK, parameters)
            # The count has to be taken after the lock: by a statement of its own.
            rows = await (await connection.execute(_ENTER, parameters)).fetchall()
            return frozenset(row[0] for row in rows)

        return await self._database.run(work)

    async def room(self, lane: str, tenant: str, cap: int) -> int:
        [(count,)] = await self._database.execute(_COUNT, {"lane": lane, "tenant": tenant})
        return max(0, cap - int(count))

    async def leave(self, lane: str, tenant: str, request_id: str) -> None:
        await self._database.execute(_LEAVE, {"lane": lane, "tenant": tenant, "request_id": request_id})


_LOCK = "SELECT FROM in_flight_tenants WHERE lane = %(lane)s AND tenant = %(tenant)s FOR UPDATE"
_MAKE = "INSERT INTO in_flight_tenants (lane, tenant) VALUES (%(lane)s, %(tenant)s) ON CONFLICT DO NOTHING"
_ENTER = """
    WITH inside AS (
        SELECT request_id FROM in_flight
        WHERE lane = %(lane)s AND tenant = %(tenant)s AND until > clock_timestamp()),
    entered AS (
        INSERT INTO in_flight (lane, tenant, request_id, until)
        SELECT %(lane)s, %(tenant)s, asked.request_id, asked.until
        FROM unnest(%(ids)s::text[], %(untils)s::timestamptz[]) WITH ORDINALITY AS asked (request_id, until, number)
        WHERE asked.request_id NOT IN (SELECT request_id FROM inside)
          AND (%(first)s OR NOT EXISTS (
              SELECT FROM deferred
              WHERE lane = %(lane)s AND stage = 'admit' AND tenant = %(tenant)s AND not_before <= clock_timestamp()))
        ORDER BY asked.number
        LIMIT greatest(0, %(cap)s - (SELECT count(*) FROM inside))
        ON CONFLICT (lane, tenant, request_id) DO UPDATE SET until = excluded.until
        RETURNING request_id)
    SELECT request_id FROM entered
    UNION ALL
    SELECT request_id FROM inside WHERE request_id = ANY (%(ids)s::text[])
"""
_COUNT = """
    SELECT count(*) FROM in_flight WHERE lane = %(lane)s AND tenant = %(tenant)s AND until > clock_timestamp()
"""
_LEAVE = "DELETE FROM in_flight WHERE lane = %(lane)s AND tenant = %(tenant)s AND request_id = %(request_id)s"


class FakeInFlight:
    """In flight in memory, with the same rules. ``waiting``: the tenants that others wait for before admission."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.inside: dict[tuple[str, str], dict[str, datetime]] = {}
        self.waiting: Callable[[str, str], bool] = lambda _lane, _tenant: False
        self.trips = 0
        self.down = False

    async def enter(
        self, lane: str, tenant: str, cap: int, requests: Sequence[Entering], *, first: bool = False
    ) -> frozenset[str]:
        inside = self._inside(lane, tenant)
        for one in requests:
            free = len(inside) < cap and (first or not self.waiting(lane, tenant))
            if one.request_id not in inside and free:
                inside[one.request_id] = one.until
        return frozenset(one.request_id for one in requests if one.request_id in inside)

    async def room(self, lane: str, tenant: str, cap: int) -> int:
        return max(0, cap - len(self._inside(lane, tenant)))

    async def leave(self, lane: str, tenant: str, request_id: str) -> None:
        self._inside(lane, tenant).pop(request_id, None)

    def _inside(self, lane: str, tenant: str) -> dict[str, datetime]:
        if self.down:
            raise DependencyDownError("postgres", "told to be down")
        self.trips += 1
        inside = self.inside.setdefault((lane, tenant), {})
        for request_id in [name for name, until in inside.items() if until <= self._clock.now()]:
            del inside[request_id]
        return inside


class Room:
    """A worker's door to capped tenants: those that come together go in together."""

    def __init__(
        self,
        in_flight: InFlight,
        caps: Mapping[str, int],
        *,
        lane: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._in_flight, self._caps, self._lane, self._monotonic = in_flight, dict(caps), lane, monotonic
        self._doors: dict[str, Together[Entering, bool]] = {}
        self._full: dict[str, float] = {}

    def capped(self, tenant: str) -> bool:
        """Whether a tenant has a cap."""
        return tenant in self._caps

    async def enter(self, tenant: str, entering: Entering, *, known: bool) -> bool:
        """Whether a request is in. ``known``: it may be in already. Blocks for one transaction at most.

        Raises ``DependencyDownError``.
        """
        if not known and self._monotonic() < self._full.get(tenant, 0.0):
            return False
        if tenant not in self._doors:
            self._doors[tenant] = Together(partial(self._enter, tenant))
        return await self._doors[tenant].ask(entering)

    async def leave(self, tenant: str, request_id: str) -> None:
        """Take a request out that waits outside the log for something else. Blocks for one round trip."""
        await self._in_flight.leave(self._lane, tenant, request_id)

    async def _enter(self, tenant: str, asked: Sequence[Entering]) -> Sequence[bool]:
        each = list({one.request_id: one for one in asked}.values())
        inside = await self._in_flight.enter(self._lane, tenant, self._caps[tenant], each)
        if len(inside) < len(each):
            self._full[tenant] = self._monotonic() + FULL_S
        return [one.request_id in inside for one in asked]
