"""What a stage of a worker has before it and in hand, over all its inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streams.health import Unit


@dataclass(slots=True)
class Load:
    """What a stage has before it. ``oldest_at`` is the append time of its oldest event in process."""

    in_flight: int = 0
    lag: int = 0
    oldest_at: datetime | None = None

    def age_s(self, now: datetime) -> float | None:
        """How old the oldest event in process is; None where there is none."""
        return None if self.oldest_at is None else max(0.0, (now - self.oldest_at).total_seconds())


def load_of(units: Iterable[Unit]) -> dict[tuple[str, str], Load]:
    """The load by stage and lane, over all inputs of a stage. Units without partitions count nothing."""
    loads: dict[tuple[str, str], Load] = {}
    for unit in units:
        load = loads.setdefault(unit.runner.labels, Load())
        if not unit.assigned:
            continue
        marks = unit.app.consumer.watermarks
        load.in_flight += marks.in_flight
        load.lag += unit.app.consumer.lag()
        oldest_s = marks.oldest_appended_at_s
        if oldest_s is not None:
            oldest = datetime.fromtimestamp(oldest_s, UTC)
            load.oldest_at = oldest if load.oldest_at is None else min(load.oldest_at, oldest)
    return loads
