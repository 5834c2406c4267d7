"""What a replay is: what was asked for, what it reads, and how far it is. Plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

State = Literal["planned", "running", "stopped", "done", "failed", "cancelled"]
Target = Literal["shadow", "live"]
# States of a run that may be taken up again.
RESUMABLE: tuple[State, ...] = ("planned", "running", "stopped", "failed")
# Of an event, what came of it.
PUBLISHED, REFUSED, BURIED = "published", "refused", "dead_letter"
SKIPPED, DUPLICATE = "not_selected", "duplicate"
# Of a mirror: its day's budget has no room for the event; retention removed it before it was read.
OVER_BUDGET, GONE = "over_budget", "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """What was asked for. Times are the broker's, ``None`` where the range is given otherwise.

    ``sample`` is a share, 0 to 1; ``sets`` are changes by name; ``rate`` is events a second; ``workers`` is how many
    processes (of a stage that pays: how many events at a time), ``None`` for the default.
    """

    since: datetime | None = None
    until: datetime | None = None
    ids: tuple[str, ...] = ()
    # Topic, partition, first and last offset; empty takes every offset of the range.
    offsets: tuple[tuple[str, int, int, int], ...] = ()
    where: str = ""
    sample: float = 1.0
    salt: str = "headrace"
    sets: Mapping[str, str] = field(default_factory=dict)
    # What events are given that lack it, by the field's path.
    fills: Mapping[str, str] = field(default_factory=dict)
    workers: int | None = None
    rate: float | None = None
    max_cost_usd: Decimal | None = None
    # The run whose selection was taken over.
    of_run: str = ""
    # Has no end: it takes what comes, and may spend so much each day (UTC, by the database's clock).
    mirror: bool = False
    max_cost_per_day_usd: Decimal | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "ids": list(self.ids),
            "offsets": [list(one) for one in self.offsets],
            "where": self.where,
            "sample": self.sample,
            "salt": self.salt,
            "sets": dict(self.sets),
            "fills": dict(self.fills),
            "workers": self.workers,
            "rate": self.rate,
            "max_cost_usd": None if self.max_cost_usd is None else f"{self.max_cost_usd:f}",
            "of_run": self.of_run,
            "mirror": self.mirror,
            "max_cost_per_day_usd": None if self.max_cost_per_day_usd is None else f"{self.max_cost_per_day_usd:f}",
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunConfig:
        """What ``as_json`` gave."""
        cost, daily = values.get("max_cost_usd"), values.get("max_cost_per_day_usd")
        return cls(
            since=_time(values.get("since")),
            until=_time(values.get("until")),
            ids=tuple(values.get("ids") or ()),
            offsets=tuple((topic, number, first, last) for topic, number, first, last in values.get("offsets") or ()),
            where=values.get("where") or "",
            sample=values.get("sample", 1.0),
            salt=values.get("salt", "headrace"),
            sets=dict(values.get("sets") or {}),
            fills=dict(values.get("fills") or {}),
            workers=values.get("workers"),
            rate=values.get("rate"),
            max_cost_usd=None if cost is None else Decimal(cost),
            of_run=values.get("of_run") or "",
            mirror=values.get("mirror", False),
            max_cost_per_day_usd=None if daily is None else Decimal(daily),
        )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


# How far each topic's partitions were written.
Written = Mapping[str, Mapping[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The offsets ``first`` to ``end - 1`` of a partition that a step reads; all before ``next`` is done.

    Amounts in US dollars: what was spent, and what reused responses would have cost.
    """

    step: int
    topic: str
    partition: int
    first: int
    end: int
    next: int
    counts: Mapping[str, int] = field(default_factory=dict)
    cost_usd: Decimal = Decimal(0)
    avoided_usd: Decimal = Decimal(0)
    written: Written = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Offsets that are not done."""
        return max(0, self.end - self.next)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A replay, as its row has it. ``lease_s`` is what is left of the lease of whoever has it in hand."""

    run: str
    name: str
    lane: str
    source_lane: str
    target: Target
    stages: tuple[str, ...]
    config: RunConfig
    code_version: str
    state: State = "planned"
    reason: str = ""
    copies_books: bool = False
    owner: str = ""
    epoch: int = 0
    lease_s: float = 0.0
    created_at: datetime | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: its places, sums over them, and what embeddings cost so far."""

    places: tuple[Place, ...]
    embeddings_usd: Decimal = Decimal(0)

    def of_step(self, step: int) -> tuple[Place, ...]:
        """The places of one step; empty where it was not begun."""
        return tuple(place for place in self.places if place.step == step)

    def counts(self, step: int | None = None) -> Counter[str]:
        """Events by outcome, of one step or of all."""
        found: Counter[str] = Counter()
        for place in self.places if step is None else self.of_step(step):
            found.update(place.counts)
        return found

    @property
    def cost_usd(self) -> Decimal:
        """What was spent."""
        return sum((place.cost_usd for place in self.places), self.embeddings_usd)

    @property
    def avoided_usd(self) -> Decimal:
        """What reused responses would have cost."""
        return sum((place.avoided_usd for place in self.places), Decimal(0))


def totals(places: Sequence[Place]) -> tuple[int, int]:
    """Offsets that are done, and all of them."""
    return sum(place.next - place.first for place in places), sum(max(0, place.end - place.first) for place in places)
