"""How runs of a replay look: lines, texts, JSON and the progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from streams.cli.costs_amounts import micro_amount
from streams.cli.output import console
from streams.replay.backfill import CORRECTED, FIRST, IN_FLIGHT, REPLACED, Left
from streams.replay.desk import Planned
from streams.replay.paid import asks_later
from streams.replay.run import Place, Run, totals
from streams.replay.run import Progress as RunProgress
from streams.replay.survey import Surveyed
from streams.replay.work import Ended


class Bar:
    """How far a run is, with its rate and the time that is left; nothing where stderr is no terminal."""

    def __init__(self, run: Run, places: Sequence[Place], doing: str) -> None:
        self._run, self._doing = run, doing
        self._all = totals([place for place in places if place.step == 0])[1]
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._shown = -1

    def __enter__(self) -> Bar:
        if console.is_terminal:
            rate = TextColumn("{task.fields[rate]}")
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate)
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(f"{self._doing} {self._run.stages[0]}", total=self._all, rate="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def read(self, done: int) -> None:
        """So many events were read."""
        self._update(done, self._all)

    def show(self, step: int, places: Sequence[Place]) -> None:
        """A step is so far."""
        if self._bar is not None and self._task is not None and step != self._shown:
            self._shown = step
            name = self._run.stages[step]
            which = f" ({step + 1} of {len(self._run.stages)})" if len(self._run.stages) > 1 else ""
            self._bar.reset(self._task, description=f"{self._doing} {name}{which}", total=totals(places)[1])
        self._update(*totals(places))

    def _update(self, done: int, total: int) -> None:
        if self._bar is None or self._task is None:
            return
        speed = next(task.speed for task in self._bar.tasks)
        self._bar.update(self._task, completed=done, total=total, rate=f"{speed:,.0f} events/s" if speed else "")


def run_view(run: Run, progress: RunProgress, left: Sequence[Left] = (), *, waits_for: str = "") -> dict[str, Any]:
    """A run as JSON. ``waits_for``: what holds it back now, where live goes first."""
    steps = []
    for number, stage in enumerate(run.stages):
        places = progress.of_step(number)
        done, total = totals(places)
        steps.append(
            {
                "stage": stage,
                "offsets": total,
                "done": done,
                "counts": dict(progress.counts(number)),
                "places": [
                    {
                        "topic": place.topic,
                        "partition": place.partition,
                        "first": place.first,
                        "end": place.end,
                        "next": place.next,
                    }
                    for place in places
                ],
            }
        )
    return {
        "run": run.run,
        "name": run.name,
        "lane": run.lane,
        "source_lane": run.source_lane,
        "into": run.target,
        "state": run.state,
        "reason": run.reason,
        "waits_for": waits_for,
        "stages": list(run.stages),
        "config": run.config.as_json(),
        "code_version": run.code_version,
        "steps": steps,
        "counts": dict(progress.counts()),
        "cost_usd": f"{progress.cost_usd:f}",
        "avoided_usd": f"{progress.avoided_usd:f}",
        "left_alone": [{"tenant": one.tenant, "request_id": one.request_id, "reason": one.reason} for one in left],
        "led_by": run.owner,
        **{name: _iso(getattr(run, name)) for name in ("created_at", "started_at", "updated_at", "ended_at")},
    }


def survey_view(planned: Planned, found: Surveyed) -> dict[str, Any]:
    """A dry run as JSON."""
    calls = {
        model: {
            "calls": found.calls[model],
            "likely_usd": f"{found.likely_usd[model]:f}",
            "most_usd": f"{found.most_usd[model]:f}",
        }
        for model in sorted({*found.calls, *found.most_usd})
    }
    return {
        "stages": list(planned.run.stages),
        "into": planned.run.target,
        "offsets": totals(planned.places)[1],
        "read": found.read,
        "events": found.taken,
        "unreadable": found.unreadable,
        "tenants": dict(found.tenants),
        "calls": calls,
        # What the amounts of the calls are made of.
        "likely_usd_by": _LATER_LIKELY if asks_later(planned.run) else _LIKELY,
        "most_usd_by": _LATER_MOST if asks_later(planned.run) else _MOST,
        # Of these, the longest prompt that there may be is taken for both.
        "not_recorded": found.not_recorded,
        "embeddings": {
            stage: {"texts": one.texts, "likely_usd": f"{one.likely_usd:f}", "most_usd": f"{one.most_usd:f}"}
            for stage, one in found.embeddings.items()
        },
        # Requests by what is searched for them, where it is not today's index for all.
        "index": dict(found.index),
        "reused": found.reused,
        "refused": found.refused,
        "answers": dict(found.answers),
    }


_LIKELY = "one attempt each, with as many tokens as it may generate"
_MOST = "every attempt that the routes allow"
_LATER_LIKELY = f"the recorded enrichments, with the passages of then: {_LIKELY}"
_LATER_MOST = f"as many passages as may be retrieved, up to the model's context: {_MOST}"


def asked_text(planned: Planned, found: Surveyed) -> str:
    """What a run would do to its source lane, as far as it is known before."""
    lane, answers = planned.run.source_lane, found.answers
    if planned.run.copies_books:
        return f"{found.taken} cost events are booked in the lane {lane} where they are missing; what is booked stays"
    text = f"{answers[REPLACED]} answers in the lane {lane} get a new revision"
    if answers[FIRST]:
        text += f", {answers[FIRST]} requests without one their first answer"
    left = [f"{answers[reason]} {said}" for reason, said in _LEFT.items() if answers[reason]]
    return f"{text}; left alone: {', '.join(left)}" if left else text


_LEFT = {CORRECTED: "that consumers corrected", IN_FLIGHT: "that the lane may still answer"}


def run_line(run: Run, progress: RunProgress) -> str:
    """A run on a line."""
    done, total = totals(progress.places)
    when = f"{run.created_at:%Y-%m-%d %H:%M}" if run.created_at else ""
    stages = ">".join(run.stages)
    cost = f", {micro_amount(progress.cost_usd)} USD" if progress.cost_usd else ""
    into = "as a mirror" if run.config.mirror else f"into {run.target}"
    return f"{run.name}  {run.state}  {stages} {into}  {done:,} of {total:,}{cost}  {when}"


def run_text(run: Run, progress: RunProgress, left: Sequence[Left], *, waits_for: str = "") -> str:
    """A run on a page."""
    lines = [f"{run.name} ({run.run}): {run.state}" + (f", {run.reason}" if run.reason else "")]
    lines += [f"  waits for live: {waits_for}"] if waits_for else []
    lines.append(f"  lane {run.lane}, from {run.source_lane} into {run.target}, by version {run.code_version}")
    asked = {name: value for name, value in run.config.as_json().items() if name not in ("salt", "mirror", "sample")}
    if run.config.sample < 1:
        asked["sample"] = run.config.sample
    asked = {name: value for name, value in asked.items() if value not in (None, "", [], {})}
    lines += [f"  {name.replace('_', ' ').replace(' usd', ' USD')}: {_short(value)}" for name, value in asked.items()]
    for number, stage in enumerate(run.stages):
        places = progress.of_step(number)
        done, total = totals(places)
        counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in progress.counts(number).items())
        lines.append(f"  {stage}: {done:,} of {total:,}" + (f"; {counts}" if counts else ""))
    lines.append(f"  {_amounts(progress)}")
    lines += [f"  left alone: {one.tenant}/{one.request_id} ({one.reason})" for one in left]
    return "\n".join(lines) + "\n"


def planned_text(planned: Planned) -> str:
    """What begins."""
    run, total = planned.run, totals(planned.places)[1]
    where = f"the lane {run.lane}" if run.target == "shadow" else f"the lane {run.source_lane}, as new revisions"
    return f"run {run.name}: {' > '.join(run.stages)} over {total:,} offsets into {where}"


def ended_line(run: Run, progress: RunProgress, ended: Ended, left: Sequence[Left]) -> str:
    """How a run ended."""
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in progress.counts().items())
    line = f"run {run.name} is {ended.state}: {counts or 'nothing yet'}"
    if progress.cost_usd or progress.avoided_usd:
        line += f"; {_amounts(progress)}"
    if left:
        line += f"; {len(left)} answers left alone, see headrace replay show {run.name}"
    return f"{line}; {ended.reason}" if ended.reason else line


def _amounts(progress: RunProgress) -> str:
    return f"cost {micro_amount(progress.cost_usd)} USD, avoided {micro_amount(progress.avoided_usd)} USD"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={one}" for name, one in value.items())
    return f"{len(value):,}" if isinstance(value, list) else str(value)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
