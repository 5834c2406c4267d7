"""Events that wait outside the log: their tenant or route is paused, or they may not go on before a certain time.

They are stored, and put back when they may go on.

An event is stored before its offset is acknowledged, and deleted after the broker has acknowledged it on its topic
again. Whoever dies between two of these steps leaves a copy more, never one less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from processors.postgres import Database

# A tenant and a route: what is paused, and so what waits, is one of them.
Group = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """An event as it came, and what decides when it may go on. ``reason`` is what holds it, e.g. ``tenant/acme``.

    ``wait_s``: it is not put back before so long after it was stored, by the database's clock.
    """

    lane: str
    stage: str
    # A dead letter that was sent once more has the event's id and a run of its own.
    run: str
    event_id: str
    topic_kind: str
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    tenant: str
    route: str
    priority: str
    request_id: str
    accepted_at: datetime
    expires_at: datetime | None
    reason: str
    control_offset: int = -1
    wait_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An event that this worker puts back now. ``generation`` tells whether it was set aside again meanwhile."""

    event: Deferred
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How many events of a tenant and route wait before a stage, and since when."""

    stage: str
    tenant: str
    route: str
    reason: str
    events: int
    oldest: datetime


class DeferredStore(Protocol):
    """Blocks on the store, one round trip a call; raises ``DependencyDownError`` when it is away."""

    async def store(self, event: Deferred) -> None:
        """Set an event aside. Storing it again changes its generation, what holds it and until when, nothing else."""
        ...

    async def groups(self, lane: str, stage: str) -> Sequence[Group]:
        """The tenants and routes that have events waiting."""
        ...

    async def take_due(self, lane: str, stage: str, group: Group, *, limit: int, hold_s: float) -> Sequence[Taken]:
        """The oldest events of a group that nobody else holds; held for ``hold_s`` from now."""
        ...

    async def take_expired(self, lane: str, stage: str, *, limit: int, hold_s: float) -> Sequence[Taken]:
        """Events whose time to live is over, as ``take_due``."""
        ...

    async def take_requests(
        self, lane: str, stage: str, requests: Sequence[tuple[str, str]], *, limit: int, hold_s: float
    ) -> Sequence[Taken]:
        """Events of these requests, each a tenant and a request id, as ``take_due``."""
        ...

    async def done(self, taken: Sequence[Taken]) -> None:
        """Delete what was put back, but for events that were set aside again since they were taken."""
        ...

    async def waiting(self, lane: str, stage: str | None = None) -> Sequence[Waiting]:
        """What waits, by stage, tenant, route and reason. Reads the lane's index: for reports, not for every event."""
        ...


class PostgresDeferred:
    """Deferred events in the table ``deferred``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store(self, event: Deferred) -> None:
        names = [name for name, _ in event.headers]
        values = [value for _, value in event.headers]
        fields = {name: getattr(event, name) for name in (*_FIELDS, "wait_s")}
        await self._database.execute(_STORE, {**fields, "header_names": names, "header_values": values})

    async def groups(self, lane: str, stage: str) -> Sequence[Group]:
        rows = await self._database.execute(_GROUPS, {"lane": lane, "stage": stage})
        return [(tenant, route) for tenant, route in rows]

    async def take_due(self, lane: str, stage: str, group: Group, *, limit: int, hold_s: float) -> Sequence[Taken]:
        tenant, route = group
        parameters = {"lane": lane, "stage": stage, "tenant": tenant, "route": route, "limit": limit, "hold_s": hold_s}
        return _taken(await self._database.execute(_TAKE_DUE, parameters))

    async def take_expired(self, lane: str, stage: str, *, limit: int, hold_s: float) -> Sequence[Taken]:
        parameters = {"lane": lane, "stage": stage, "limit": limit, "hold_s": hold_s}
        return _taken(await self._database.execute(_TAKE_EXPIRED, parameters))

    async def take_requests(
        self, lane: str, stage: str, requests: Sequence[tuple[str, str]], *, limit: int, hold_s: float
    ) -> Sequence[Taken]:
        parameters = {
            "lane": lane,
            "stage": stage,
            "tenants": [tenant for tenant, _ in requests],
            "ids": [request_id for _, request_id in requests],
            "limit": limit,
            "hold_s": hold_s,
        }
        return _taken(await self._database.execute(_TAKE_REQUESTS, parameters))

    async def done(self, taken: Sequence[Taken]) -> None:
        parameters = {
            "lanes": [one.event.lane for one in taken],
            "stages": [one.event.stage for one in taken],
            "runs": [one.event.run for one in taken],
            "ids": [one.event.event_id for one in taken],
            "generations": [one.generation for one in taken],
        }
        await self._database.execute(_DONE, parameters)

    async def waiting(self, lane: str, stage: str | None = None) -> Sequence[Waiting]:
        rows = await self._database.execute(_WAITING, {"lane": lane, "stage": stage})
        return [
            Waiting(stage=each, tenant=tenant, route=route, reason=reason, events=events, oldest=oldest.astimezone(UTC))
            for each, tenant, route, reason, events, oldest in rows
        ]


_FIELDS = (
    "lane", "stage", "run", "event_id", "topic_kind", "key", "value", "tenant", "route", "priority", "request_id",
    "accepted_at", "expires_at", "reason", "control_offset",
)  # fmt: skip
# An event that comes again while its row is being put back must not lose the row: the generation tells them apart.
_STORE = """
    INSERT INTO deferred (lane, stage, run, event_id, topic_kind, key, value, header_names, header_values,
        tenant, route, priority, request_id, accepted_at, expires_at, reason, control_offset, not_before)
    VALUES (%(lane)s, %(stage)s, %(run)s, %(event_id)s, %(topic_kind)s, %(key)s, %(value)s, %(header_names)s::text[],
        %(header_values)s::bytea[], %(tenant)s, %(route)s, %(priority)s, %(request_id)s, %(accepted_at)s,
        %(expires_at)s, %(reason)s, %(control_offset)s, clock_timestamp() + make_interval(secs => %(wait_s)s))
    ON CONFLICT (lane, stage, run, event_id) DO UPDATE
    SET generation = deferred.generation + 1, taken_until = '-infinity',
        not_before = CASE WHEN %(wait_s)s > 0 THEN excluded.not_before ELSE deferred.not_before END,
        reason = excluded.reason, control_offset = excluded.control_offset
"""
# One step of the index for each group, however many events wait in it.
_GROUPS = """
    WITH RECURSIVE found AS (
        (SELECT tenant, route FROM deferred WHERE lane = %(lane)s AND stage = %(stage)s
         ORDER BY tenant, route LIMIT 1)
        UNION ALL
        SELECT later.tenant, later.route FROM found CROSS JOIN LATERAL (
            SELECT tenant, route FROM deferred
            WHERE lane = %(lane)s AND stage = %(stage)s AND (tenant, route) > (found.tenant, found.route)
            ORDER BY tenant, route LIMIT 1) AS later)
    SELECT tenant, route FROM found
"""
_TAKE = """
    UPDATE deferred SET taken_until = clock_timestamp() + make_interval(secs => %(hold_s)s)
    FROM chosen
    WHERE deferred.lane = chosen.lane AND deferred.stage = chosen.stage AND deferred.run = chosen.run
      AND deferred.event_id = chosen.event_id
    RETURNING deferred.lane, deferred.stage, deferred.run, deferred.event_id, topic_kind, key, value,
        tenant, route, priority, request_id, accepted_at, expires_at, reason, control_offset,
        header_names, header_values, generation, not_before
"""
_TAKE_DUE = f"""
    WITH chosen AS (
        SELECT lane, stage, run, event_id FROM deferred
        WHERE lane = %(lane)s AND stage = %(stage)s AND tenant = %(tenant)s AND route = %(route)s
          AND not_before <= clock_timestamp() AND taken_until <= clock_timestamp()
        ORDER BY not_before LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
    {_TAKE}"""
_TAKE_EXPIRED = f"""
    WITH chosen AS (
        SELECT lane, stage, run, event_id FROM deferred
        WHERE lane = %(lane)s AND stage = %(stage)s
          AND expires_at <= clock_timestamp() AND taken_until <= clock_timestamp()
        ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
    {_TAKE}"""
_TAKE_REQUESTS = f"""
    WITH chosen AS (
        SELECT d.lane, d.stage, d.run, d.event_id FROM deferred AS d
        JOIN unnest(%(tenants)s::text[], %(ids)s::text[]) AS asked (tenant, request_id)
          ON d.lane = %(lane)s AND d.tenant = asked.tenant AND d.request_id = asked.request_id
        WHERE d.stage = %(stage)s AND d.taken_until <= clock_timestamp()
        LIMIT %(limit)s FOR UPDATE OF d SKIP LOCKED)
    {_TAKE}"""
_DONE = """
    DELETE FROM deferred USING unnest(%(lanes)s::text[], %(stages)s::text[], %(runs)s::text[],
        %(ids)s::text[], %(generations)s::integer[]) AS put (lane, stage, run, event_id, generation)
    WHERE deferred.lane = put.lane AND deferred.stage = put.stage AND deferred.run = put.run
      AND deferred.event_id = put.event_id AND deferred.generation = put.generation
"""
_WAITING = """
    SELECT stage, tenant, route, reason, count(*), min(deferred_at) FROM deferred
    WHERE lane = %(lane)s AND (%(stage)s::text IS NULL OR stage = %(stage)s)
    GROUP BY stage, tenant, route, reason ORDER BY stage, tenant, route, reason
"""


def _taken(rows: Sequence[tuple[object, ...]]) -> list[Taken]:
    """In the order in which they were set aside, which the statement does not keep."""
    found = []
    for row in sorted(rows, key=lambda row: (row[-1], row[3])):
        *fields, names, values, generation, _ = row
        headers = tuple(zip(names, map(bytes, values), strict=True))  # type: ignore[call-overload]
        event = Deferred(**dict(zip(_FIELDS, fields, strict=True)), headers=headers)  # type: ignore[arg-type]
        found.append(Taken(event=_plain(event), generation=generation))  # type: ignore[arg-type]
    return found


def _plain(event: Deferred) -> Deferred:
    return replace(event, key=None if event.key is None else bytes(event.key), value=bytes(event.value))


_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass
class _Row:
    event: Deferred
    deferred_at: datetime
    generation: int = 0
    taken_until: datetime = _NEVER
    not_before: datetime = _NEVER


class FakeDeferred:
    """Deferred events in memory, with the same rules; ``now`` is the test's."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.rows: dict[tuple[str, str, str, str], _Row] = {}

    async def store(self, event: Deferred) -> None:
        key = (event.lane, event.stage, event.run, event.event_id)
        known = self.rows.get(key)
        generation = known.generation + 1 if known else 0
        kept = replace(known.event, reason=event.reason) if known else event
        before = known.not_before if known and not event.wait_s else self.now + timedelta(seconds=event.wait_s)
        self.rows[key] = _Row(kept, known.deferred_at if known else self.now, generation, not_before=before)

    async def groups(self, lane: str, stage: str) -> Sequence[Group]:
        return sorted({(row.event.tenant, row.event.route) for row in self._of(lane, stage)})

    async def take_due(self, lane: str, stage: str, group: Group, *, limit: int, hold_s: float) -> Sequence[Taken]:
        ours = (row for row in self._of(lane, stage) if (row.event.tenant, row.event.route) == group)
        rows = [row for row in ours if row.not_before <= self.now]
        return self._take(rows, limit, hold_s)

    async def take_expired(self, lane: str, stage: str, *, limit: int, hold_s: float) -> Sequence[Taken]:
        rows = [row for row in self._of(lane, stage) if row.event.expires_at and row.event.expires_at <= self.now]
        return self._take(rows, limit, hold_s)

    async def take_requests(
        self, lane: str, stage: str, requests: Sequence[tuple[str, str]], *, limit: int, hold_s: float
    ) -> Sequence[Taken]:
        rows = [row for row in self._of(lane, stage) if (row.event.tenant, row.event.request_id) in requests]
        return self._take(rows, limit, hold_s)

    async def done(self, taken: Sequence[Taken]) -> None:
        for one in taken:
            key = (one.event.lane, one.event.stage, one.event.run, one.event.event_id)
            if key in self.rows and self.rows[key].generation == one.generation:
                del self.rows[key]

    async def waiting(self, lane: str, stage: str | None = None) -> Sequence[Waiting]:
        found: dict[tuple[str, str, str, str], list[datetime]] = {}
        for row in self.rows.values():
            event = row.event
            if event.lane == lane and stage in (None, event.stage):
                key = (event.stage, event.tenant, event.route, event.reason)
                found.setdefault(key, []).append(row.deferred_at)
        return [
            Waiting(stage=key[0], tenant=key[1], route=key[2], reason=key[3], events=len(times), oldest=min(times))
            for key, times in sorted(found.items())
        ]

    def _of(self, lane: str, stage: str) -> list[_Row]:
        return [row for row in self.rows.values() if (row.event.lane, row.event.stage) == (lane, stage)]

    def _take(self, rows: Sequence[_Row], limit: int, hold_s: float) -> list[Taken]:
        free = [row for row in rows if row.taken_until <= self.now][:limit]
        for row in free:
            row.taken_until = self.now + timedelta(seconds=hold_s)
        return [Taken(event=row.event, generation=row.generation) for row in free]
