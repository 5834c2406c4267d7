"""What a mirror spends on each day: the port, the adapter for Postgres, and the same in memory.

Nothing is begun before the most that it can cost is held, in a row that outlives the process. So what was open when a
process was killed still counts, and two processes can't spend the same dollar.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import LiteralString, Protocol

from processors.postgres import Connection, Database
from schemas.errors import FencedError

NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day (UTC) of a mirror. ``held_usd``: the most that what is open can cost. ``calls``: events that could cost."""

    day: date
    spent_usd: Decimal = NOTHING
    held_usd: Decimal = NOTHING
    calls: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """Whether there was room for an event on ``day``."""

    found: bool
    day: date


class Days(Protocol):
    """Keeps what the process that leads a mirror spends. Blocks on the store; raises ``DependencyDownError``."""

    async def hold(self, event_id: str, most_usd: Decimal) -> Room:
        """Hold what an event can cost at the most, of today. What is held already, or settled, has its room.

        Raises ``FencedError`` where the mirror is in other hands.
        """
        ...

    async def settle(self, event_id: str, cost_usd: Decimal) -> None:
        """Book what an event did cost, on the day of which it was held; today where nothing was.

        Once: what is settled stays as it is.
        """
        ...

    async def forget(self) -> None:
        """Forget the events that are settled, once how far the mirror is has been noted."""
        ...

    async def today(self) -> Day:
        """The day that it is."""
        ...


# What day it is; a test says another one.
TODAY: LiteralString = "(clock_timestamp() AT TIME ZONE 'UTC')::date"


class PostgresDays:
    """Days in the tables ``mirror_days`` and ``mirror_calls``."""

    def __init__(
        self, database: Database, run: str, *, limit_usd: Decimal, epoch: int = 0, today: LiteralString | None = None
    ) -> None:
        """``epoch``: of the process that leads the mirror. ``today``: an SQL expression in place of ``TODAY``."""
        self._database, self._today = database, today or TODAY
        self._key = {"run": run, "epoch": epoch, "limit": limit_usd}

    async def hold(self, event_id: str, most_usd: Decimal) -> Room:
        key = {**self._key, "event_id": event_id, "most": most_usd}

        async def work(connection: Connection) -> Room:
            if await (await connection.execute(_LED, key)).fetchone() is None:
                raise FencedError(f"the mirror {key['run']} was stopped, or another process has it in hand")
            row = await (await connection.execute(f"SELECT {self._today}")).fetchone()
            assert row is not None
            today: date = row[0]
            dated = {**key, "day": today}
            known = await (await connection.execute(_KNOWN, key)).fetchone()
            if known is None:
                # Its row is locked from here on: what others hold meanwhile is seen.
                await connection.execute(_DAY, dated)
                found = await (await connection.execute(_TAKE, dated)).fetchone() is not None
                if found:
                    await connection.execute(_HOLD, dated)
                return Room(found, today)
            held_on, held, cost = known
            if cost is None and held_on != today:
                # Begun before midnight by a process that died: what it costs now is spent today, room or not.
                await connection.execute(_DAY, dated)
                await connection.execute(_LEAVE, {**key, "day": held_on, "held": held})
                await connection.execute(_CARRY, {**dated, "held": held})
                await connection.execute(_MOVE, dated)
            return Room(True, today)

        return await self._database.run(work)

    async def settle(self, event_id: str, cost_usd: Decimal) -> None:
        key = {**self._key, "event_id": event_id, "cost": cost_usd, "most": cost_usd}

        async def work(connection: Connection) -> None:
            if await (await connection.execute(_KNOWN, key)).fetchone() is not None:
                await connection.execute(_SETTLE, key)
                return
            # It was to be reused, and had to be paid after all.
            row = await (await connection.execute(f"SELECT {self._today}")).fetchone()
            assert row is not None
            dated = {**key, "day": row[0], "held": cost_usd}
            for statement in (_DAY, _CARRY, _HOLD, _SETTLE):
                await connection.execute(statement, dated)

        await self._database.run(work)

    async def forget(self) -> None:
        await self._database.execute(_FORGET, self._key)

    async def today(self) -> Day:
        query = f"""
            SELECT today.day, coalesce(spent_usd, 0), coalesce(held_usd, 0), coalesce(calls, 0)
            FROM (SELECT {self._today} AS day) AS today
            LEFT JOIN mirror_days ON mirror_days.day = today.day AND run = %(run)s
        """
        [(day, spent, held, calls)] = await self._database.execute(query, self._key)
        return Day(day=day, spent_usd=spent, held_usd=held, calls=calls)


class FakeDays:
    """Days in memory; ``day`` is the one that it is, until a test says another one."""

    def __init__(self, limit_usd: Decimal, *, day: date = date(2026, 1, 1)) -> None:
        self.limit_usd, self.day = limit_usd, day
        self.days: dict[date, Day] = {}
        # By event: its day, the most that it can cost, and what it did.
        self.calls: dict[str, tuple[date, Decimal, Decimal | None]] = {}
        self.fenced = False

    async def hold(self, event_id: str, most_usd: Decimal) -> Room:
        if self.fenced:
            raise FencedError("another process has it in hand")
        known = self.calls.get(event_id)
        if known is None:
            day = await self.today()
            if day.spent_usd + day.held_usd + most_usd > self.limit_usd:
                return Room(False, self.day)
            self._add(self.day, held=most_usd, calls=1)
            self.calls[event_id] = (self.day, most_usd, None)
        elif known[2] is None and known[0] != self.day:
            self._add(known[0], held=-known[1], calls=-1)
            self._add(self.day, held=known[1], calls=1)
            self.calls[event_id] = (self.day, known[1], None)
        return Room(True, self.day)

    async def settle(self, event_id: str, cost_usd: Decimal) -> None:
        if event_id not in self.calls:
            self._add(self.day, held=cost_usd, calls=1)
        day, most, cost = self.calls.get(event_id, (self.day, cost_usd, None))
        if cost is None:
            self.calls[event_id] = (day, most, cost_usd)
            self._add(day, held=-most, spent=cost_usd)

    async def forget(self) -> None:
        self.calls = {name: call for name, call in self.calls.items() if call[2] is None}

    async def today(self) -> Day:
        return self.days.get(self.day, Day(day=self.day))

    def _add(self, day: date, *, held: Decimal = NOTHING, spent: Decimal = NOTHING, calls: int = 0) -> None:
        old = self.days.get(day, Day(day=day))
        self.days[day] = replace(
            old, held_usd=old.held_usd + held, spent_usd=old.spent_usd + spent, calls=old.calls + calls
        )


_LED = "SELECT FROM replay_runs WHERE run = %(run)s AND epoch = %(epoch)s AND state = 'running' FOR SHARE"
_KNOWN = "SELECT day, most_usd, cost_usd FROM mirror_calls WHERE run = %(run)s AND event_id = %(event_id)s FOR UPDATE"
_DAY = "INSERT INTO mirror_days (run, day) VALUES (%(run)s, %(day)s) ON CONFLICT DO NOTHING"
_TAKE = """
    UPDATE mirror_days SET held_usd = held_usd + %(most)s, calls = calls + 1
    WHERE run = %(run)s AND day = %(day)s AND spent_usd + held_usd + %(most)s <= %(limit)s RETURNING true
"""
_HOLD = """
    INSERT INTO mirror_calls (run, event_id, day, most_usd) VALUES (%(run)s, %(event_id)s, %(day)s, %(most)s)
"""
_LEAVE = """
    UPDATE mirror_days SET held_usd = held_usd - %(held)s, calls = calls - 1
    WHERE run = %(run)s AND day = %(day)s
"""
_CARRY = """
    UPDATE mirror_days SET held_usd = held_usd + %(held)s, calls = calls + 1
    WHERE run = %(run)s AND day = %(day)s
"""
_MOVE = "UPDATE mirror_calls SET day = %(day)s WHERE run = %(run)s AND event_id = %(event_id)s"
# What was paid is booked whoever leads the mirror by now.
_SETTLE = """
    WITH done AS (
        UPDATE mirror_calls SET cost_usd = %(cost)s
        WHERE run = %(run)s AND event_id = %(event_id)s AND cost_usd IS NULL RETURNING day, most_usd)
    UPDATE mirror_days SET held_usd = held_usd - done.most_usd, spent_usd = spent_usd + %(cost)s
    FROM done WHERE mirror_days.run = %(run)s AND mirror_days.day = done.day
"""
_FORGET = "DELETE FROM mirror_calls WHERE run = %(run)s AND cost_usd IS NOT NULL"
