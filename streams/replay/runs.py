"""Runs as rows: the port, the adapter for Postgres, and the same in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

import orjson
import psycopg
from psycopg.types.json import Jsonb

from processors.postgres import Connection, Database
from schemas.errors import ConfigurationError, FencedError
from streams.replay.run import RESUMABLE, Place, Progress, Run, RunConfig, State

LEASE_S = 10.0
_NOT_CHANGED = "the run {} has ended, or is in another process's hands; its changes have to wait for it"


class Runs(Protocol):
    """Keeps runs and their progress. Blocks on the store; raises ``DependencyDownError`` when it is away.

    A run is in one process's hands at a time: ``take`` gives it an epoch, and whoever writes under an older one, or
    after a cancel, gets ``FencedError``.
    """

    async def create(self, run: Run, places: Sequence[Place]) -> None:
        """Keep a new run with the places of its first step. Raises ``ConfigurationError`` for a name that is taken."""
        ...

    async def get(self, named: str) -> Run | None:
        """The run of this id or name."""
        ...

    async def all(self) -> Sequence[Run]:
        """Every run, newest first."""
        ...

    async def progress(self, run: str) -> Progress:
        """How far it is."""
        ...

    async def take(self, run: str, *, owner: str) -> int | None:
        """Begin or go on with a run: its epoch. ``None`` while somebody else's lease on it lasts, or once it ended."""
        ...

    async def renew(self, run: str, epoch: int) -> None:
        """Keep the run in hand for another ``LEASE_S`` seconds, also while a cancelled one is brought to rest.

        Raises ``FencedError`` for that one too.
        """
        ...

    async def release(self, run: str, epoch: int) -> None:
        """Give a cancelled run out of hand: nothing is written under this epoch any more."""
        ...

    async def begin_step(self, run: str, epoch: int, places: Sequence[Place]) -> None:
        """Keep the places of a step. Those that are there stay as they are."""
        ...

    async def save(self, run: str, epoch: int, places: Iterable[Place]) -> None:
        """Keep how far these places are, all of them or none."""
        ...

    async def end(self, run: str, epoch: int, state: State, reason: str = "") -> None:
        """Give the run out of hand in this state."""
        ...

    async def configure(self, run: str, config: RunConfig) -> None:
        """Change what is asked for of a run that nobody has in hand.

        Raises ``ConfigurationError`` for one that somebody has, or that has ended.
        """
        ...

    async def cancel(self, run: str) -> bool:
        """Cancel a run that has not ended, whoever has it in hand. False for one that has.

        Whoever has it in hand keeps it until nothing more of it is on its way.
        """
        ...

    async def delete(self, run: Run) -> None:
        """Remove the run and the rows of its lane; what it paid for stays, and the lane by which that is found."""
        ...


class PostgresRuns:
    """Runs in the tables ``replay_runs`` and ``replay_places``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, run: Run, places: Sequence[Place]) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(
                _CREATE,
                {
                    **{name: getattr(run, name) for name in ("run", "name", "lane", "source_lane", "target")},
                    "stages": list(run.stages),
                    "config": Jsonb(run.config.as_json()),
                    "code_version": run.code_version,
                    "copies_books": run.copies_books,
                },
            )
            await _insert(connection, run.run, places)

        try:
            await self._database.run(work)
        except psycopg.errors.UniqueViolation:
            raise ConfigurationError(
                f"there is a run named {run.name!r} already; choose another --name, or headrace replay delete it"
            ) from None

    async def get(self, named: str) -> Run | None:
        rows = await self._database.execute(f"{_SELECT} WHERE run = %(named)s OR name = %(named)s", {"named": named})
        # An id may be another run's name.
        found = sorted((_run(row) for row in rows), key=lambda one: one.run != named)
        return found[0] if found else None

    async def all(self) -> Sequence[Run]:
        return [_run(row) for row in await self._database.execute(f"{_SELECT} ORDER BY created_at DESC, run")]

    async def progress(self, run: str) -> Progress:
        places = tuple(_place(row) for row in await self._database.execute(_PLACES, {"run": run}))
        [(embeddings,)] = await self._database.execute(_EMBEDDINGS, {"run": run})
        return Progress(places, Decimal(embeddings))

    async def take(self, run: str, *, owner: str) -> int | None:
        rows = await self._database.execute(_TAKE, {"run": run, "owner": owner, "lease_s": LEASE_S})
        return int(rows[0][0]) if rows else None

    async def renew(self, run: str, epoch: int) -> None:
        rows = await self._database.execute(_RENEW, {"run": run, "epoch": epoch, "lease_s": LEASE_S})
        _held([row for row in rows if row[0] == "running"], run)

    async def release(self, run: str, epoch: int) -> None:
        await self._database.execute(_RELEASE, {"run": run, "epoch": epoch})

    async def begin_step(self, run: str, epoch: int, places: Sequence[Place]) -> None:
        async def work(connection: Connection) -> None:
            _held(await (await connection.execute(_LOCK, {"run": run, "epoch": epoch})).fetchall(), run)
            await _insert(connection, run, places)

        await self._database.run(work)

    async def save(self, run: str, epoch: int, places: Iterable[Place]) -> None:
        values = orjson.dumps([_values(place) for place in places], default=str, option=orjson.OPT_NON_STR_KEYS)
        parameters = {"run": run, "epoch": epoch, "places": values.decode()}
        _held(await self._database.execute(_SAVE, parameters), run)

    async def end(self, run: str, epoch: int, state: State, reason: str = "") -> None:
        parameters = {"run": run, "epoch": epoch, "state": state, "reason": reason}
        _held(await self._database.execute(_END, parameters), run)

    async def configure(self, run: str, config: RunConfig) -> None:
        parameters = {"run": run, "config": Jsonb(config.as_json())}
        if not await self._database.execute(_CONFIGURE, parameters):
            raise ConfigurationError(_NOT_CHANGED.format(run))

    async def cancel(self, run: str) -> bool:
        return bool(await self._database.execute(_CANCEL, {"run": run}))

    async def delete(self, run: Run) -> None:
        async def work(connection: Connection) -> None:
            key = {"run": run.run, "lane": run.lane}
            for statement in _OF_LANE:
                await connection.execute(statement, key)
            if run.copies_books:
                await connection.execute("DELETE FROM ledger WHERE lane = %(lane)s", key)
            await connection.execute(_DELETE, key)

        await self._database.run(work)


def _held(rows: Sequence[object], run: str) -> None:
    if not rows:
        raise FencedError(f"the run {run} was cancelled, or another process has it in hand")


async def _insert(connection: Connection, run: str, places: Sequence[Place]) -> None:
    values = orjson.dumps([_values(place) for place in places], default=str, option=orjson.OPT_NON_STR_KEYS)
    await connection.execute(_INSERT, {"run": run, "places": values.decode()})


def _values(place: Place) -> dict[str, Any]:
    return {
        "step": place.step,
        "topic": place.topic,
        "partition": place.partition,
        "first_offset": place.first,
        "end_offset": place.end,
        "next_offset": place.next,
        "counts": dict(place.counts),
        "cost_usd": f"{place.cost_usd:f}",
        "avoided_usd": f"{place.avoided_usd:f}",
        "written": {topic: dict(ends) for topic, ends in place.written.items()},
    }


def _place(row: Sequence[Any]) -> Place:
    step, topic, partition, first, end, next_, counts, cost, avoided, written = row
    return Place(
        step=step,
        topic=topic,
        partition=partition,
        first=first,
        end=end,
        next=next_,
        counts=counts,
        cost_usd=cost,
        avoided_usd=avoided,
        written={name: {int(number): offset for number, offset in ends.items()} for name, ends in written.items()},
    )


_COLUMNS = (
    "run", "name", "lane", "source_lane", "target", "code_version", "state", "reason", "copies_books", "owner",
    "epoch", "created_at", "started_at", "updated_at", "ended_at",
)  # fmt: skip


def _run(row: Sequence[Any]) -> Run:
    *plain, stages, config, lease_s = row
    values = dict(zip(_COLUMNS, plain, strict=True))
    for name in ("created_at", "started_at", "updated_at", "ended_at"):
        values[name] = values[name] and values[name].astimezone(UTC)
    return Run(**values, stages=tuple(stages), config=RunConfig.from_json(config), lease_s=max(0.0, float(lease_s)))


_SELECT = f"""
    SELECT {", ".join(_COLUMNS)}, stages, config,
        CASE WHEN lease_until > clock_timestamp() THEN extract(epoch FROM lease_until - clock_timestamp()) ELSE 0 END
    FROM replay_runs
"""
_CREATE = """
    INSERT INTO replay_runs (run, name, lane, source_lane, target, stages, config, code_version, copies_books)
    VALUES (%(run)s, %(name)s, %(lane)s, %(source_lane)s, %(target)s, %(stages)s, %(config)s, %(code_version)s,
        %(copies_books)s)
"""
_RECORD = """
    AS place (step integer, topic text, partition integer, first_offset bigint, end_offset bigint, next_offset bigint,
        counts jsonb, cost_usd numeric, avoided_usd numeric, written jsonb)
"""
_INSERT = f"""
    INSERT INTO replay_places (run, step, topic, partition, first_offset, end_offset, next_offset, counts, cost_usd,
        avoided_usd, written)
    SELECT %(run)s, place.* FROM jsonb_to_recordset(%(places)s::jsonb) {_RECORD}
    ON CONFLICT DO NOTHING
"""
_PLACES = """
    SELECT step, topic, partition, first_offset, end_offset, next_offset, counts, cost_usd, avoided_usd, written
    FROM replay_places WHERE run = %(run)s ORDER BY step, topic, partition
"""
# What is not told yet, too: open attempts at their bounds. The last condition is that of the index.
_EMBEDDINGS = """
    SELECT coalesce(sum(amount_usd), 0) FROM spends
    WHERE lane = (SELECT lane FROM replay_runs WHERE run = %(run)s) AND lane LIKE 'replay-%%'
"""
_TAKE = """
    UPDATE replay_runs SET state = 'running', reason = '', owner = %(owner)s, epoch = epoch + 1, ended_at = NULL,
        lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s), updated_at = clock_timestamp(),
        started_at = coalesce(started_at, clock_timestamp())
    WHERE run = %(run)s AND state IN ('planned', 'running', 'stopped', 'failed') AND lease_until <= clock_timestamp()
    RETURNING epoch
"""
_RENEW = """
    UPDATE replay_runs SET lease_until = clock_timestamp() + make_interval(secs => %(lease_s)s)
    WHERE run = %(run)s AND epoch = %(epoch)s AND state IN ('running', 'cancelled') RETURNING state
"""
_RELEASE = """
    UPDATE replay_runs SET lease_until = '-infinity', owner = ''
    WHERE run = %(run)s AND epoch = %(epoch)s AND state = 'cancelled'
"""
_LOCK = "SELECT FROM replay_runs WHERE run = %(run)s AND epoch = %(epoch)s AND state = 'running' FOR SHARE"
_SAVE = f"""
    WITH held AS MATERIALIZED (
        SELECT run FROM replay_runs WHERE run = %(run)s AND epoch = %(epoch)s AND state = 'running' FOR SHARE)
    UPDATE replay_places SET end_offset = greatest(replay_places.end_offset, place.end_offset),
        next_offset = place.next_offset, counts = place.counts, cost_usd = place.cost_usd,
        avoided_usd = place.avoided_usd, written = place.written
    FROM held, jsonb_to_recordset(%(places)s::jsonb) {_RECORD}
    WHERE replay_places.run = held.run AND replay_places.step = place.step AND replay_places.topic = place.topic
      AND replay_places.partition = place.partition
    RETURNING true
"""
_END = """
    UPDATE replay_runs SET state = %(state)s, reason = %(reason)s, lease_until = '-infinity', owner = '',
        updated_at = clock_timestamp(),
        ended_at = CASE WHEN %(state)s IN ('done', 'failed') THEN clock_timestamp() END
    WHERE run = %(run)s AND epoch = %(epoch)s AND state = 'running' RETURNING true
"""
_CONFIGURE = """
    UPDATE replay_runs SET config = %(config)s, updated_at = clock_timestamp()
    WHERE run = %(run)s AND state IN ('planned', 'running', 'stopped', 'failed') AND lease_until <= clock_timestamp()
    RETURNING true
"""
_CANCEL = """
    UPDATE replay_runs SET state = 'cancelled', reason = 'cancelled by an operator',
        updated_at = clock_timestamp(), ended_at = clock_timestamp()
    WHERE run = %(run)s AND state IN ('planned', 'running', 'stopped', 'failed') RETURNING true
"""
# What was paid is found by its lane.
_DELETE = """
    WITH gone AS (
        DELETE FROM replay_runs WHERE run = %(run)s RETURNING lane, run, source_lane, stages, created_at)
    INSERT INTO deleted_runs (lane, run, source_lane, stages, created_at) SELECT * FROM gone
"""
# Of a lane that nobody else writes to. Calls, embeddings and what they cost stay: another run reuses what was paid.
_OF_LANE = (
    "DELETE FROM evaluations WHERE lane = %(lane)s",
    "DELETE FROM feedback WHERE lane = %(lane)s",
    "DELETE FROM finals WHERE lane = %(lane)s",
)


class FakeRuns:
    """Runs in memory, with the same rules; a lease lasts until the run is given out of hand or ``expire`` is called."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.places: dict[tuple[str, int, str, int], Place] = {}

    async def create(self, run: Run, places: Sequence[Place]) -> None:
        if any(other.name == run.name for other in self.runs.values()):
            raise ConfigurationError(f"there is a run named {run.name!r} already")
        self.runs[run.run] = replace(run, created_at=datetime.now(UTC))
        self._keep(run.run, places)

    async def get(self, named: str) -> Run | None:
        found = self.runs.get(named)
        return found or next((run for run in self.runs.values() if run.name == named), None)

    async def all(self) -> Sequence[Run]:
        return list(reversed(self.runs.values()))

    async def progress(self, run: str) -> Progress:
        return Progress(tuple(place for key, place in sorted(self.places.items()) if key[0] == run))

    async def take(self, run: str, *, owner: str) -> int | None:
        found = self.runs[run]
        if found.lease_s or found.state in ("done", "cancelled"):
            return None
        epoch = found.epoch + 1
        self.runs[run] = replace(found, epoch=epoch, state="running", reason="", owner=owner, lease_s=LEASE_S)
        return epoch

    async def renew(self, run: str, epoch: int) -> None:
        self._check(run, epoch)

    async def begin_step(self, run: str, epoch: int, places: Sequence[Place]) -> None:
        self._check(run, epoch)
        self._keep(run, places)

    async def save(self, run: str, epoch: int, places: Iterable[Place]) -> None:
        self._check(run, epoch)
        self.places.update({(run, place.step, place.topic, place.partition): place for place in places})

    async def end(self, run: str, epoch: int, state: State, reason: str = "") -> None:
        self._check(run, epoch)
        self.runs[run] = replace(self.runs[run], state=state, reason=reason, owner="", lease_s=0.0)

    async def configure(self, run: str, config: RunConfig) -> None:
        found = self.runs[run]
        if found.lease_s or found.state not in RESUMABLE:
            raise ConfigurationError(_NOT_CHANGED.format(run))
        self.runs[run] = replace(found, config=config)

    async def cancel(self, run: str) -> bool:
        found = self.runs[run]
        if found.state in ("done", "cancelled"):
            return False
        self.runs[run] = replace(found, state="cancelled")
        return True

    async def release(self, run: str, epoch: int) -> None:
        found = self.runs[run]
        if found.epoch == epoch and found.state == "cancelled":
            self.runs[run] = replace(found, owner="", lease_s=0.0)

    async def delete(self, run: Run) -> None:
        del self.runs[run.run]
        self.places = {key: place for key, place in self.places.items() if key[0] != run.run}

    def expire(self, run: str) -> None:
        """End the lease of whoever has the run in hand."""
        self.runs[run] = replace(self.runs[run], lease_s=0.0)

    def _keep(self, run: str, places: Sequence[Place]) -> None:
        for place in places:
            self.places.setdefault((run, place.step, place.topic, place.partition), place)

    def _check(self, run: str, epoch: int) -> None:
        found = self.runs[run]
        _held([True] if found.epoch == epoch and found.state == "running" else [], run)
