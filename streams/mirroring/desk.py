"""What commands do with mirrors: begin one or take it up again, and tell how it stands."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from schemas.errors import ConfigurationError, DependencyDownError
from streams.mirroring.days import PostgresDays
from streams.mirroring.figures import Figures, figures_of
from streams.mirroring.follow import starting_places
from streams.overview.backlog import BacklogReader
from streams.reading import TopicReader
from streams.replay.desk import Desk, Planned, code_version
from streams.replay.lane import lane_of
from streams.replay.paid import pays, with_books
from streams.replay.plan import stages_of
from streams.replay.run import Run, RunConfig
from streams.replay.where import check_fields, nearest, parse

# What a mirror takes on where nothing is said.
STAGE, SHARE, LANE = "complete", 0.05, "live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of a mirror; ``None`` where nothing is said: the default for a new one, else what it has."""

    stage: str | None = None
    through: str | None = None
    share: float | None = None
    salt: str | None = None
    where: str | None = None
    sets: Mapping[str, str] = field(default_factory=dict)
    per_day_usd: Decimal | None = None
    rate: float | None = None
    workers: int | None = None
    lane: str | None = None


async def mirror_of(desk: Desk, named: str) -> Run:
    """The mirror of this name or id. Raises ``ConfigurationError`` that names the nearest one."""
    found = await desk.runs.get(named)
    if found is None:
        known = [run.name for run in await desk.runs.all() if run.config.mirror]
        raise ConfigurationError(
            f"there is no mirror {named!r}; {nearest(named, known) if known else 'there is none yet'}"
        )
    if not found.config.mirror:
        raise ConfigurationError(f"{found.name} is a replay and no mirror; see headrace replay show {found.name}")
    return found


async def mirrors(desk: Desk) -> Sequence[Run]:
    """Every mirror, newest first."""
    return [run for run in await desk.runs.all() if run.config.mirror]


async def started(desk: Desk, name: str, asked: Asked) -> tuple[Run, bool]:
    """The mirror of this name, and whether it is a new one. Blocks on the broker for a new one.

    Raises ``ConfigurationError`` for what can't be mirrored, for a mirror that was asked for otherwise, and for one
    that was stopped for good.
    """
    check_share(asked.share)
    if await desk.runs.get(name) is None:
        planned = await _planned(desk, name, asked)
        # Another process may have begun it meanwhile.
        with suppress(ConfigurationError):
            return await desk.begin(planned), True
    found = await mirror_of(desk, name)
    differs = _differences(desk, found, asked)
    if differs:
        raise ConfigurationError(
            f"the mirror {name!r} has other settings: {'; '.join(differs)}. Start it with its own (the "
            f"name alone is enough), choose another name, or headrace replay mirror delete {name}; its budget, rate "
            f"and workers can be changed by headrace replay mirror change {name}"
        )
    if found.state in ("cancelled", "done"):
        raise ConfigurationError(
            f"the mirror {name!r} was stopped for good; choose another name, or headrace replay mirror delete {name}"
        )
    # What it was begun with may be gone since.
    await desk.check_asked(found.stages, found.config.sets, found.config.max_cost_per_day_usd)
    return found, False


async def changed(desk: Desk, run: Run, asked: Asked) -> Run:
    """The mirror with what is asked of its budget, rate or workers; what it mirrors stays as it is.

    Raises ``ConfigurationError`` where nothing is asked, and for a mirror that is led, or was stopped for good.
    """
    wanted = {"max_cost_per_day_usd": asked.per_day_usd, "rate": asked.rate, "workers": asked.workers}
    given: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        raise ConfigurationError("say what is to be changed: --max-cost-per-day, --rate or --workers")
    config = replace(run.config, **given)
    await desk.check_asked(run.stages, config.sets, config.max_cost_per_day_usd)
    await desk.runs.configure(run.run, config)
    return replace(run, config=config)


async def _planned(desk: Desk, name: str, asked: Asked) -> Planned:
    stage, lane = asked.stage or STAGE, asked.lane or LANE
    stages = with_books(stages_of(stage, asked.through), desk.settings)
    if stages[0] == "account":
        raise ConfigurationError("--stage account: books are not mirrored; headrace replay --stage account copies them")
    where = asked.where or ""
    if where:
        _check_where(where, stages[0])
    if pays(stages, desk.settings) and asked.per_day_usd is None:
        raise ConfigurationError("--max-cost-per-day is missing: say how many US dollars the mirror may spend in a day")
    await desk.check_asked(stages, asked.sets, asked.per_day_usd)
    with TopicReader(desk.settings) as reader:
        places = await asyncio.to_thread(starting_places, reader, desk.settings, lane, stages[0])
    config = RunConfig(
        where=where,
        sample=SHARE if asked.share is None else asked.share,
        salt=asked.salt or RunConfig().salt,
        sets=dict(asked.sets),
        workers=asked.workers,
        rate=asked.rate,
        mirror=True,
        max_cost_per_day_usd=asked.per_day_usd,
    )
    run = secrets.token_hex(4)
    planned = Run(
        run=run,
        name=name,
        lane=lane_of(run),
        source_lane=lane,
        target="shadow",
        stages=stages,
        config=config,
        code_version=code_version(),
    )
    return Planned(planned, places)


def check_share(share: float | None) -> None:
    """Raise ``ConfigurationError`` for what is no share of anything."""
    if share is not None and not (math.isfinite(share) and 0 < share <= 1):
        raise ConfigurationError(f"--share {share:g}: it has to be above 0 and at most 1, e.g. 0.05 for one in twenty")


def _check_where(where: str, stage: str) -> None:
    """Refuse what is not known yet when an event is mirrored: its answer comes later."""
    expression = parse(where)
    check_fields(expression, stage)
    late = expression.needs & ({"score"} if stage == "evaluate" else {"score", "status"})
    if late:
        raise ConfigurationError(
            f"--where: {' and '.join(sorted(late))} of a request is known once it is answered, and a mirror takes "
            "events as they come; replay what was recorded instead"
        )


def _differences(desk: Desk, run: Run, asked: Asked) -> list[str]:
    """What was asked for otherwise, as text."""
    config = run.config
    stages = None
    if asked.stage is not None or asked.through is not None:
        stages = with_books(stages_of(asked.stage or run.stages[0], asked.through), desk.settings)
    pairs: dict[str, tuple[Any, Any]] = {
        "--stage/--through": (stages, run.stages),
        "--share": (asked.share, config.sample),
        "--salt": (asked.salt, config.salt),
        "--where": (asked.where, config.where),
        "--set": (dict(asked.sets) or None, dict(config.sets)),
        "--max-cost-per-day": (asked.per_day_usd, config.max_cost_per_day_usd),
        "--rate": (asked.rate, config.rate),
        "--workers": (asked.workers, config.workers),
        "--lane": (asked.lane, run.source_lane),
    }
    return [
        f"{name} is {_said(has)}, and not {_said(wanted)}"
        for name, (wanted, has) in pairs.items()
        if wanted is not None and wanted != has
    ]


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={one}" for name, one in value.items()) or "nothing"
    if isinstance(value, tuple):
        return ">".join(value)
    return f"{value:f}" if isinstance(value, Decimal) else str("nothing" if value in (None, "") else value)


async def standing(desk: Desk, run: Run) -> Figures:
    """How a mirror stands. Blocks on Postgres, and on the broker for how far it is behind."""
    progress = await desk.progress(run)
    limit = run.config.max_cost_per_day_usd
    day = await PostgresDays(desk.database, run.run, limit_usd=Decimal(0) if limit is None else limit).today()
    at = {(place.topic, place.partition): place.next for place in progress.of_step(0)}
    behind: tuple[int, datetime | None] | None = None
    # The rest of it is known without the broker; a topic of the source lane may be gone.
    with suppress(DependencyDownError, ConfigurationError):
        behind = await asyncio.to_thread(_behind, desk, run, at)
    found = figures_of(run, progress, day, behind=behind, now=datetime.now(UTC))
    return replace(found, waits_for=await desk.waits_for(run))


def _behind(desk: Desk, run: Run, at: Mapping[tuple[str, int], int]) -> tuple[int, datetime | None]:
    with BacklogReader(desk.settings, run.source_lane) as backlog:
        return backlog.behind(at)
