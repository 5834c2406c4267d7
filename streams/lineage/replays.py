"""A replay as it is told: what it reads and writes, what it was asked for, how far it is and what it cost.

Values of ``--where``, ids and texts are nobody's business and are left out: they may name a person.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from schemas.codec import Codec
from schemas.errors import HeadraceError
from schemas.ids import derive_id
from streams.lineage.code import commit
from streams.lineage.happening import Dataset, Happening, Lineage, Phase
from streams.lineage.topics import Topics
from streams.replay.changes import POLICY, PROMPT, is_text
from streams.replay.gone import noted
from streams.replay.lane import output_kinds
from streams.replay.run import Progress, Run, State, totals
from streams.replay.runs import Runs
from streams.replay.where import parse
from streams.settings import Settings
from streams.topics import topic_name

FAMILY = "replay"
PHASES: Mapping[State, Phase] = {"done": "COMPLETE", "failed": "FAIL", "stopped": "ABORT", "cancelled": "ABORT"}
# Of --set, what can hold no text of anybody's; of the rest only numbers are told.
_PLAIN = (PROMPT, "model", "route", "admission.route", "request.model")
NOT_TOLD = "(not told)"
# A request that a reason names: for who leads the run, and for nobody else.
_REQUEST = re.compile(r"(?<=\bof the request ).*?(?=, as of \d| is not known, because )", re.DOTALL)


def lineage_id(run: str, epoch: int) -> UUID:
    """The id of a run as it was taken in hand the ``epoch``-th time: each has a beginning and an end of its own."""
    return UUID(derive_id("lineage", run, epoch))


def replayed(
    run: Run, progress: Progress, topics: Topics, prefix: str, *, phase: Phase, epoch: int, at: datetime, reason: str
) -> Happening:
    """A run as one event tells it. ``reason``: why it ended as it did."""
    ended = phase not in ("START", "RUNNING")
    return Happening(
        phase=phase,
        at=at,
        run_id=lineage_id(run.run, epoch),
        job=f"{prefix}{run.source_lane}.replay.{'-'.join(run.stages)}",
        family=FAMILY,
        description=f"{', '.join(run.stages)} once more over what the lane {run.source_lane} recorded",
        inputs=_inputs(run, progress, topics, ended=ended, columns=phase == "START"),
        outputs=_outputs(run, progress, topics, prefix, ended=ended, columns=phase == "START"),
        parameters=_parameters(run),
        since=run.config.since,
        until=run.config.until if run.config.since else None,
        error=_REQUEST.sub(NOT_TOLD, reason) if ended and phase != "COMPLETE" else "",
        facts=_facts(run, progress, epoch),
    )


def once_more(run: Run, progress: Progress, topics: Topics, prefix: str) -> list[Happening]:
    """What is told of a run that was led, made of its row: how it began, and how it ended or that it goes on."""
    begun, last = run.started_at or datetime.now(UTC), run.ended_at or run.updated_at or datetime.now(UTC)
    phase = PHASES.get(run.state, "RUNNING")
    if run.state == "running" and run.lease_s <= 0:
        phase = "ABORT"
    moments: list[tuple[Phase, datetime, str]] = [("START", begun, ""), (phase, last, run.reason)]
    return [
        replayed(run, progress, topics, prefix, phase=one, epoch=run.epoch, at=at, reason=reason)
        for one, at, reason in moments
    ]


def _inputs(run: Run, progress: Progress, topics: Topics, *, ended: bool, columns: bool) -> tuple[Dataset, ...]:
    stretches: dict[str, dict[int, tuple[int, int]]] = {}
    counts: dict[str, int] = {}
    for place in progress.of_step(0):
        end = place.next if ended else place.end
        stretches.setdefault(place.topic, {})[place.partition] = (place.first, end)
        counts[place.topic] = counts.get(place.topic, 0) + sum(place.counts.values())
    return tuple(
        topics.dataset(
            topic, run.source_lane, stretches=parts, records=counts[topic] if ended else None, columns=columns
        )
        for topic, parts in sorted(stretches.items())
    )


def _outputs(
    run: Run, progress: Progress, topics: Topics, prefix: str, *, ended: bool, columns: bool
) -> tuple[Dataset, ...]:
    written: dict[str, int] = {}
    for (topic, _), end in noted(progress.places).items():
        # The lane is the run's own, so its topics begin with what the run wrote.
        written[topic] = written.get(topic, 0) + end
    made = []
    for kind in output_kinds(run.stages):
        topic = topic_name(prefix, run.lane, kind)
        records = written.get(topic, 0) if ended else None
        made.append(topics.dataset(topic, run.lane, records=records, columns=columns))
    if run.target == "live" and not run.copies_books:
        # A backfill's revisions; its rows say how many, the topic has others' answers too.
        made.append(topics.dataset(topic_name(prefix, run.source_lane, "answers"), run.source_lane, columns=columns))
    return tuple(made)


def _parameters(run: Run) -> dict[str, str]:
    config = run.config
    given, first = {**config.sets, **config.fills}, run.stages[0]
    found = {f"--set {name}": _told(first, name, value) for name, value in given.items()}
    if config.sample < 1:
        found["--sample"] = f"{config.sample:g}"
    if config.max_cost_usd is not None:
        found["--max-cost"] = f"{config.max_cost_usd:f}"
    if run.target != "shadow":
        found["--into"] = run.target
    return found


def _told(stage: str, name: str, value: str) -> str:
    if name in _PLAIN or name.startswith(POLICY) or value.lower() in ("true", "false"):
        return value
    if is_text(stage, name):
        # A user's name may be a number.
        return NOT_TOLD
    try:
        Decimal(value)
    except InvalidOperation:
        return NOT_TOLD
    return value


def _facts(run: Run, progress: Progress, epoch: int) -> dict[str, Any]:
    config = run.config
    done, total = totals(progress.of_step(0))
    facts: dict[str, Any] = {
        "run": run.run,
        "name": run.name,
        "led": epoch,
        "stages": list(run.stages),
        "source_lane": run.source_lane,
        "lane": run.lane,
        "into": run.target,
        "planned_with": run.code_version,
        "commit": commit() or None,
        "offsets": total,
        "offsets_done": done,
        "counts": {run.stages[step]: dict(progress.counts(step)) for step in range(len(run.stages))},
        "cost_usd": f"{progress.cost_usd:f}",
        "avoided_usd": f"{progress.avoided_usd:f}",
        "selected_by": sorted(parse(config.where).names) if config.where else None,
        "ids": len(config.ids) or None,
        "of_run": config.of_run or None,
    }
    if epoch > 1:
        facts["first_run_id"] = str(lineage_id(run.run, 1))
    return {name: value for name, value in facts.items() if value is not None}


class ReplayLineage:
    """Tells of runs. Nothing of it raises or fails a run; what can't be told is counted."""

    def __init__(self, settings: Settings, runs: Runs, codec: Codec, lineage: Lineage) -> None:
        self._runs, self._lineage = runs, lineage
        self._prefix, self._running_s = settings.prefix, settings.lineage.running_s
        self._topics = Topics(settings, codec)

    async def begun(self, run: Run, epoch: int) -> None:
        """A run was taken in hand; ``run`` is as it was found. Blocks on the rows of the run."""
        if run.state == "running" and 0 < run.epoch < epoch:
            await self.tell("ABORT", run, run.epoch, "the process that led it ended without a word")
        await self.tell("START", run, epoch)

    async def ended(self, run: Run, epoch: int, state: State, reason: str) -> None:
        """It was given out of hand in this state."""
        await self.tell(PHASES.get(state, "ABORT"), run, epoch, reason)

    async def follow(self, run: Run, epoch: int) -> None:
        """Say from time to time that it goes on, until this is cancelled."""
        while self._lineage.on and self._running_s:
            await asyncio.sleep(self._running_s)
            await self.tell("RUNNING", run, epoch)

    async def tell(self, phase: Phase, run: Run, epoch: int, reason: str = "") -> None:
        """Tell one event. Blocks on the rows of the run."""
        if not self._lineage.on:
            return
        try:
            progress = await self._runs.progress(run.run)
            self._lineage.tell(
                replayed(
                    run,
                    progress,
                    self._topics,
                    self._prefix,
                    phase=phase,
                    epoch=epoch,
                    at=datetime.now(UTC),
                    reason=reason,
                )
            )
        except HeadraceError as error:
            self._lineage.miss(str(error))
        except Exception as error:  # a fault of our own in telling is no fault of the run
            self._lineage.miss(type(error).__name__)
