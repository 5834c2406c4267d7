"""What Postgres knows of a lane's workers and dead letters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from schemas.errors import DependencyDownError

CONNECT_TIMEOUT_S = 5
# Five reports were missed.
STALE_S = 15.0
# A worker that was ended without a farewell and has not come back by then is not expected any more.
FORGOTTEN_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker by its last report. ``age_s``: how long ago that was, by the database's clock."""

    slot: str
    stages: tuple[str, ...]
    host: str
    pid: int
    url: str
    version: str
    started_at: datetime
    age_s: float
    report: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Slot and stages; unique in a lane."""
        return f"{self.slot} ({'+'.join(self.stages)})"

    @property
    def stale(self) -> bool:
        """Whether it has stopped reporting: it ended without a farewell, hangs, or is cut off from Postgres."""
        return self.age_s > STALE_S

    @property
    def not_ready(self) -> Mapping[str, str]:
        """Why it is not ready; empty where it is."""
        return dict(self.report.get("not_ready", {}))

    @property
    def state(self) -> str:
        """``stale``, ``not ready`` or ``ready``."""
        return "stale" if self.stale else "not ready" if self.not_ready else "ready"

    def figures(self, stage: str) -> Mapping[str, Any]:
        """What it reports of a stage; empty where it runs no such stage."""
        return dict(self.report.get("stages", {}).get(stage, {}))

    def view(self) -> dict[str, Any]:
        """As JSON, without the figures."""
        return {
            "slot": self.slot,
            "stages": list(self.stages),
            "state": self.state,
            "not_ready": dict(self.not_ready),
            "host": self.host,
            "pid": self.pid,
            "url": self.url,
            "version": self.version,
            "started_at": self.started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "reported_s_ago": round(self.age_s, 1),
        }


class Reported:
    """Reads reports over one connection. Blocks on Postgres; raises ``DependencyDownError`` when it is away."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], lane: str) -> None:
        self._connection, self._lane = connection, lane

    def now(self) -> datetime:
        """The database's time."""
        ((moment,),) = self._rows("SELECT clock_timestamp()")
        found: datetime = moment
        return found.astimezone(UTC)

    def workers(self) -> list[Worker]:
        """The lane's workers, those that stopped reporting within the last hour too."""
        rows = self._rows(_WORKERS, {"lane": self._lane, "forgotten_s": FORGOTTEN_S})
        return [
            Worker(
                slot=slot,
                stages=tuple(stages.split("+")),
                host=host,
                pid=pid,
                url=url,
                version=version,
                started_at=started_at.astimezone(UTC),
                age_s=age_s,
                report=report,
            )
            for slot, stages, host, pid, url, version, started_at, age_s, report in rows
        ]

    def touched(self, starts: Mapping[int, int]) -> int:
        """How many of the dead letters from these offsets on, by partition, were retried or dropped."""
        given = {"lane": self._lane, "partitions": list(starts), "offsets": list(starts.values())}
        ((count,),) = self._rows(_TOUCHED, given)
        return int(count)

    def _rows(self, statement: Any, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        with _translated():
            return self._connection.execute(statement, parameters).fetchall()


@contextmanager
def reported(dsn: str, lane: str) -> Iterator[Reported]:
    """The reports, over a connection of their own. Raises as ``Reported``."""
    with _translated():
        connection = psycopg.connect(
            dsn,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="headrace status",
        )
        connection.execute("SET statement_timeout = 10000")
    with connection:
        yield Reported(connection, lane)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UndefinedTable:
        raise DependencyDownError("postgres", "its tables are missing or old; run `headrace migrate`") from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise DependencyDownError("postgres", type(error).__name__) from error


_WORKERS = """
    SELECT slot, stages, host, pid, url, version, started_at,
           extract(epoch FROM clock_timestamp() - updated_at)::float8, report
    FROM worker_reports
    WHERE lane = %(lane)s AND updated_at > clock_timestamp() - make_interval(secs => %(forgotten_s)s)
    ORDER BY stages, slot
"""
_TOUCHED = """
    SELECT count(*) FROM dead_letters AS letter
    JOIN unnest(%(partitions)s::int[], %(offsets)s::bigint[]) AS start (partition, "offset")
      ON letter.partition = start.partition AND letter."offset" >= start."offset"
    WHERE letter.lane = %(lane)s AND letter.state <> 'retrying'
"""
