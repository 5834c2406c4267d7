"""What a worker says about itself, every few seconds, in the table ``worker_reports``.

Never on the way of an event: a task of its own writes, and a report that can't be written is counted and passed over.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import structlog
from psycopg.types.json import Jsonb

from processors.clock import Clock
from processors.postgres import Database
from streams.figures import stage_figures
from streams.health import Health
from streams.holding import in_process
from streams.metrics import Metrics

INTERVAL_S = 3.0
# At the end of a worker: one that can't reach the database by then leaves its row, which is shown as stale.
FAREWELL_S = 2.0
# No address that another host could ask.
_ANY_HOST = ("0.0.0.0", "::", "")  # noqa: S104

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which worker it is. ``host`` and ``port`` are those that its pages are served at."""

    lane: str
    slot: str
    stages: tuple[str, ...]
    host: str
    port: int

    @property
    def url(self) -> str:
        """Where its pages are."""
        host = os.uname().nodename if self.host in _ANY_HOST else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


class Reporter:
    """Writes one worker's report. ``offset`` tells how far it has read the control topic."""

    def __init__(
        self,
        identity: Identity,
        database: Database,
        *,
        health: Health,
        metrics: Metrics,
        clock: Clock,
        offset: Callable[[], int],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._database, self._health, self._metrics, self._clock = database, health, metrics, clock
        self._offset, self._interval_s = offset, interval_s
        self._key = {
            "lane": identity.lane,
            "slot": identity.slot,
            "stages": "+".join(identity.stages),
            "host": os.uname().nodename,
            "pid": os.getpid(),
        }
        self._about = {"url": identity.url, "version": version("headrace"), "started_at": clock.now()}

    async def run(self) -> None:
        """Report for ever."""
        said = ""
        while True:
            try:
                await self.write()
                said = ""
            except Exception as error:
                self._metrics.reports_failed.inc()
                if said != (said := type(error).__name__):
                    log.warning("reports are not written and will be again", error=said)
            await asyncio.sleep(self._interval_s)

    async def write(self) -> None:
        """Write one report. Blocks on Postgres, and raises what it raises."""
        await self._database.execute(_WRITE, {**self._key, **self._about, "report": Jsonb(self.report())})

    async def remove(self) -> None:
        """Take the report away, at an orderly end. Waits for two seconds at most; raises nothing."""
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._database.execute(_REMOVE, self._key)
        except Exception as error:
            self._metrics.reports_failed.inc()
            log.warning("the worker's report stays behind", error=type(error).__name__)

    def report(self) -> dict[str, Any]:
        """The report itself."""
        units = self._health.units
        return {
            "not_ready": self._health.not_ready(),
            "paused": self._health.paused(),
            "control_offset": self._offset(),
            "in_process": in_process((unit.runner.stage.name, unit.runner.holding) for unit in units),
            "stages": stage_figures(self._metrics, units, now=self._clock.now()),
        }


_WRITE = """
    INSERT INTO worker_reports (lane, slot, stages, host, pid, url, version, started_at, report)
    VALUES (%(lane)s, %(slot)s, %(stages)s, %(host)s, %(pid)s, %(url)s, %(version)s, %(started_at)s, %(report)s)
    ON CONFLICT (lane, slot, stages) DO UPDATE
    SET host = excluded.host, pid = excluded.pid, url = excluded.url, version = excluded.version,
        started_at = excluded.started_at, report = excluded.report, updated_at = clock_timestamp()
"""
# Not a row that another life of the same slot has written since.
_REMOVE = """
    DELETE FROM worker_reports
    WHERE lane = %(lane)s AND slot = %(slot)s AND stages = %(stages)s AND host = %(host)s AND pid = %(pid)s
"""
