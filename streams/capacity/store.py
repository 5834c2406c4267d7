"""Where processes tell what they use: the port, the adapter for Postgres, and the same in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from psycopg.types.json import Jsonb

from processors.postgres import Connection, Database
from streams.capacity.told import Holder, Kind, Told

# Any constant will do, as long as every release uses the same. Replays alone take it, one at a time.
ADVISORY_LOCK = 0x68725573
# A row that is older is of a process that is gone.
FORGOTTEN_S = 3_600.0

# Given what everybody else tells: what a replay takes, by endpoint, and what it waits for.
Decide = Callable[[Sequence[Holder]], tuple[Mapping[str, Told], str]]


class Uses(Protocol):
    """Keeps what processes tell. Blocks on the store; raises ``DependencyDownError`` when it is away."""

    async def tell(self, holder: str, kind: Kind, lane: str, uses: Mapping[str, Told]) -> None:
        """Keep what a process uses now, in place of what it told before."""
        ...

    async def claim(self, holder: str, lane: str, decide: Decide) -> None:
        """Let a replay decide over what others tell, and keep what it decided; no two replays decide at a time."""
        ...

    async def of(self, holder: str) -> Holder | None:
        """What one process told last."""
        ...

    async def forget(self, holder: str) -> None:
        """Take away what a process told: it calls nobody any more."""
        ...


class PostgresUses:
    """In the table ``provider_use``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tell(self, holder: str, kind: Kind, lane: str, uses: Mapping[str, Told]) -> None:
        await self._database.execute(_TELL, _row(holder, kind, lane, uses, ""))

    async def claim(self, holder: str, lane: str, decide: Decide) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
            # After the lock was granted: what the replay before decided is seen.
            rows = await (await connection.execute(_OTHERS, {"holder": holder})).fetchall()
            uses, said = decide([_holder(row) for row in rows])
            await connection.execute(_TELL, _row(holder, "replay", lane, uses, said))
            await connection.execute(_FORGET_OLD, {"forgotten_s": FORGOTTEN_S})

        async with self._database.transaction() as connection:
            await work(connection)

    async def of(self, holder: str) -> Holder | None:
        rows = await self._database.execute(f"{_SELECT} WHERE holder = %(holder)s", {"holder": holder})
        return _holder(rows[0]) if rows else None

    async def forget(self, holder: str) -> None:
        await self._database.execute("DELETE FROM provider_use WHERE holder = %(holder)s", {"holder": holder})


def _row(holder: str, kind: Kind, lane: str, uses: Mapping[str, Told], said: str) -> dict[str, Any]:
    use = Jsonb({endpoint: one.as_json() for endpoint, one in uses.items()})
    return {"holder": holder, "kind": kind, "lane": lane, "use": use, "said": said}


def _holder(row: Sequence[Any]) -> Holder:
    holder, kind, lane, age_s, use, said = row
    uses = {endpoint: Told.from_json(values) for endpoint, values in use.items()}
    return Holder(holder=holder, kind=kind, lane=lane, age_s=max(0.0, float(age_s)), uses=uses, said=said)


_SELECT = """
    SELECT holder, kind, lane, extract(epoch FROM clock_timestamp() - updated_at), use, said FROM provider_use
"""
_OTHERS = f"{_SELECT} WHERE holder <> %(holder)s"
_TELL = """
    INSERT INTO provider_use (holder, kind, lane, use, said)
    VALUES (%(holder)s, %(kind)s, %(lane)s, %(use)s, %(said)s)
    ON CONFLICT (holder) DO UPDATE
    SET kind = excluded.kind, lane = excluded.lane, use = excluded.use, said = excluded.said,
        updated_at = clock_timestamp()
"""
_FORGET_OLD = """
    DELETE FROM provider_use WHERE updated_at < clock_timestamp() - make_interval(secs => %(forgotten_s)s)
"""


@dataclass(slots=True)
class FakeUses:
    """In memory. ``clock`` tells the age of what was told; ``down`` is raised in place of an answer."""

    clock: Callable[[], float] = time.monotonic
    down: Exception | None = None
    rows: dict[str, tuple[float, Holder]] = field(default_factory=dict)

    async def tell(self, holder: str, kind: Kind, lane: str, uses: Mapping[str, Told]) -> None:
        self._keep(Holder(holder=holder, kind=kind, lane=lane, age_s=0.0, uses=dict(uses)))

    async def claim(self, holder: str, lane: str, decide: Decide) -> None:
        if self.down is not None:
            raise self.down
        others = [self._aged(name) for name in self.rows if name != holder]
        uses, said = decide(others)
        self._keep(Holder(holder=holder, kind="replay", lane=lane, age_s=0.0, uses=dict(uses), said=said))

    async def of(self, holder: str) -> Holder | None:
        return self._aged(holder) if holder in self.rows else None

    async def forget(self, holder: str) -> None:
        self.rows.pop(holder, None)

    def _keep(self, one: Holder) -> None:
        if self.down is not None:
            raise self.down
        self.rows[one.holder] = (self.clock(), one)

    def _aged(self, holder: str) -> Holder:
        told_at, one = self.rows[holder]
        return Holder(
            holder=holder,
            kind=one.kind,
            lane=one.lane,
            age_s=self.clock() - told_at,
            uses=one.uses,
            said=one.said,
        )
