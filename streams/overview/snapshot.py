"""One look at a lane: backlog, workers and dead letters, with what could not be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from schemas.errors import ConfigurationError, DependencyDownError
from schemas.records import Answer
from streams.overview.backlog import Backlog, BacklogReader
from streams.overview.reported import Worker, reported
from streams.settings import Settings
from streams.stages import STAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was seen ``at`` the database's time. ``faults`` says why something could not be asked, by dependency.

    ``letters`` counts dead letters on the topic, ``open_letters`` those that nobody retried or dropped: at most so
    many, because copies of one letter count apart. None: broker or Postgres could not be asked.
    """

    at: datetime
    backlogs: tuple[Backlog, ...] = ()
    workers: tuple[Worker, ...] = ()
    letters: int | None = 0
    open_letters: int | None = 0
    faults: Mapping[str, str] = field(default_factory=dict)

    def of(self, stage: str) -> tuple[Backlog, ...]:
        """The stage's inputs."""
        return tuple(one for one in self.backlogs if one.stage == stage)

    def running(self, stage: str) -> tuple[Worker, ...]:
        """The workers of a stage that report."""
        return tuple(one for one in self.workers if stage in one.stages and not one.stale)

    def events(self, stage: str) -> int:
        """How many events of the stage are not committed."""
        return sum(one.events for one in self.of(stage))

    def age_s(self, stage: str) -> float | None:
        """How long the oldest event that is not committed has been on its topic; None where none waits."""
        oldest = min((one.oldest_at for one in self.of(stage) if one.oldest_at is not None), default=None)
        return None if oldest is None else max(0.0, (self.at - oldest).total_seconds())

    def down(self) -> list[str]:
        """What keeps the lane from working, one sentence each; empty when nothing does."""
        found = [f"{reason}" for reason in self.faults.values()]
        for stage in STAGES.values():
            found += self._stage_down(stage.name, needed=Answer in stage.outputs)
        for worker in self.workers:
            reasons = "; ".join(worker.not_ready.values())
            if not worker.stale and reasons:
                found.append(f"the worker {worker.name} is not ready: {reasons}")
        return found

    def _stage_down(self, stage: str, *, needed: bool) -> list[str]:
        inputs = self.of(stage)
        missing = [topic for one in inputs for topic in one.missing]
        found = [f"{stage}: the topic {topic} is missing; run `headrace topics apply`" for topic in missing]
        lost = [worker for worker in self.workers if stage in worker.stages and worker.stale]
        if self.running(stage):
            return found
        if lost:
            seen = ", ".join(f"{worker.name} {worker.age_s:.0f} s ago" for worker in lost)
            return [*found, f"{stage}: no worker runs it; the last report came from {seen}"]
        waiting = sum(one.events for one in inputs if one.members == 0)
        # A stage that nobody ever ran and no request needs is not missed.
        if waiting and (needed or any(one.state != "dead" for one in inputs)):
            return [*found, f"{stage}: {waiting} events wait and no worker runs it; start `headrace worker {stage}`"]
        return found


class Lookout:
    """Takes snapshots. Use it in a ``with`` block. ``look`` blocks on broker and Postgres, and tells their faults."""

    def __init__(self, settings: Settings, lane: str) -> None:
        self._settings, self._lane = settings, lane
        self._backlog = BacklogReader(settings, lane)

    def __enter__(self) -> Lookout:
        return self

    def __exit__(self, *details: object) -> None:
        self._backlog.__exit__(*details)

    def look(self) -> Snapshot:
        """What is to be seen now."""
        faults: dict[str, str] = {}
        backlogs: Sequence[Backlog] = ()
        extent: Mapping[int, tuple[int, int]] = {}
        try:
            backlogs, extent = self._backlog.read(), self._backlog.extent("dead-letters")
        except (DependencyDownError, ConfigurationError) as error:
            faults["kafka"] = str(error)
        letters = None if faults else sum(end - start for start, end in extent.values())
        given: dict[str, Any] = {"backlogs": tuple(backlogs), "letters": letters, "faults": faults}
        try:
            with reported(self._settings.postgres.dsn.get_secret_value(), self._lane) as rows:
                workers, touched = rows.workers(), rows.touched({place: start for place, (start, _) in extent.items()})
                left = None if letters is None else max(0, letters - touched)
                return Snapshot(at=rows.now(), workers=tuple(workers), open_letters=left, **given)
        except DependencyDownError as error:
            faults["postgres"] = str(error)
        return Snapshot(at=datetime.now(UTC), open_letters=None, **given)
