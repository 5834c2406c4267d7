"""What commands and other code do with runs: plan and begin one, lead it, cancel and delete it. Built by ``open``."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version

from processors.passages_pg import PgPassages
from processors.postgres import Database
from processors.prompts import PgPrompts
from schemas.codec import Codec
from schemas.errors import ConfigurationError
from streams import security
from streams.capacity.store import PostgresUses
from streams.deployed import check_keys
from streams.lineage.emitter import Note, open_lineage
from streams.lineage.happening import Lineage
from streams.lineage.replays import ReplayLineage
from streams.reading import TopicReader
from streams.replay.backfill import Left, left_alone
from streams.replay.booking import Settle, keeps_books, settling
from streams.replay.calls import check_model, check_prompt
from streams.replay.changes import changes_for, check_sets, needed_path
from streams.replay.conduct import RENEW_S, Conductor
from streams.replay.lane import lane_of, remove_topics
from streams.replay.paid import pays, with_books
from streams.replay.past_index import check_kept
from streams.replay.plan import Planner, stages_of
from streams.replay.run import RESUMABLE, Place, Progress, Run, RunConfig, Target
from streams.replay.runs import LEASE_S, PostgresRuns, Runs
from streams.replay.selection import check_known, within
from streams.replay.where import nearest
from streams.replay.work import Observe
from streams.settings import Settings

# For a cancelled run to come to rest, and how often it is looked at.
REST_S, LOOK_S = 60.0, 0.5
# What a run said longer ago than this, it may not wait for any more.
TOLD_S = 5.0
# The last stage of a run that may publish into the source lane.
_PUBLISHES: Mapping[str, str] = {"filter": "answers", "account": "the books"}


def code_version() -> str:
    """The version of this code, which a run is noted with."""
    try:
        return version("headrace")
    except PackageNotFoundError:
        # Run from a folder that was never installed.
        return "unknown"


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that was not begun, and what its first step would read."""

    run: Run
    places: tuple[Place, ...]


class Desk:
    """Runs, and all that can be done with them. Use it on one event loop."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        runs: Runs,
        codec: Codec,
        *,
        note: Note | None = None,
        settle: Settle | None = None,
    ) -> None:
        self._settle = settle or settling(settings, database, runs, codec)
        self.settings, self.database, self.runs, self.codec = settings, database, runs, codec
        self._note = note
        self._lineage: Lineage | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, *, note: Note | None = None) -> AsyncIterator[Desk]:
        """Connect to Postgres and the registry. ``note`` hears of lineage events that are lost.

        Raises ``DependencyDownError``.
        """
        dsn = settings.postgres.dsn.get_secret_value()
        database = await Database.open(
            dsn, max_size=settings.postgres.pool_size, statement_timeout_s=60, application_name="headrace replay"
        )
        try:
            desk = cls(settings, database, PostgresRuns(database), await security.codec(settings.registry), note=note)
            try:
                yield desk
            finally:
                if desk._lineage is not None:
                    await asyncio.to_thread(desk._lineage.close)
        finally:
            await database.close()

    @property
    def lineage(self) -> Lineage:
        """Whoever is told of runs. Raises ``ConfigurationError`` where the settings name what is not there."""
        if self._lineage is None:
            self._lineage = open_lineage(self.settings, note=self._note)
        return self._lineage

    @property
    def telling(self) -> ReplayLineage:
        """Tells of runs. Raises as ``lineage``."""
        return ReplayLineage(self.settings, self.runs, self.codec, self.lineage)

    async def plan(
        self,
        stage: str,
        config: RunConfig,
        *,
        through: str | None = None,
        name: str | None = None,
        target: Target = "shadow",
        lane: str = "live",
    ) -> Planned:
        """Decide what a run would do, and begin nothing. Blocks on the broker, and on Postgres for an earlier run.

        Raises ``ConfigurationError`` for whatever of it can't be done.
        """
        stages = with_books(stages_of(stage, through), self.settings)
        await check_known(config.where, self.database, lane=lane, stage=stages[0])
        await self.check_asked(stages, config.sets, config.max_cost_usd)
        copies = stages == ("account",)
        if target == "live" and (through or stage) not in _PUBLISHES:
            raise ConfigurationError(
                f"--into live publishes answers: end the run at filter (--through filter), not at {through or stage}"
            )
        if name is not None and await self.runs.get(name) is not None:
            raise ConfigurationError(f"there is a run named {name!r} already; choose another --name or delete it")
        earlier: Sequence[Place] = ()
        if config.of_run:
            config, earlier = await self._selection_of(config, stages)
        with TopicReader(self.settings) as reader:
            planner = Planner(self.settings, reader, lane)
            places = await asyncio.to_thread(planner.places, stage, config, earlier=earlier)
        run = secrets.token_hex(4)
        planned = Run(
            run=run,
            name=name or run,
            lane=lane_of(run),
            source_lane=lane,
            target=target,
            stages=stages,
            config=config,
            code_version=code_version(),
            copies_books=copies,
        )
        return Planned(planned, places)

    async def _selection_of(self, config: RunConfig, stages: Sequence[str]) -> tuple[RunConfig, Sequence[Place]]:
        other = await self.find(config.of_run)
        if other.stages[0] != stages[0]:
            raise ConfigurationError(
                f"--run {other.name} replayed {other.stages[0]}, so its events are none of {stages[0]}'s"
            )
        kept = replace(within(other.config, config), of_run=other.run)
        return kept, (await self.runs.progress(other.run)).of_step(0)

    async def begin(self, planned: Planned) -> Run:
        """Keep the run as a row.

        Raises ``ConfigurationError`` where its name was taken meanwhile.
        """
        await self.runs.create(planned.run, planned.places)
        return planned.run

    def conductor(self, observe: Observe | None = None) -> Conductor:
        """What leads a run; see ``Conductor.lead``."""
        services = (self.settings, self.database, self.runs, self.codec)
        return Conductor(*services, observe=observe, lineage=self.telling)

    async def find(self, named: str) -> Run:
        """The run of this id or name. Raises ``ConfigurationError`` that names the nearest one."""
        found = await self.runs.get(named)
        if found is None:
            known = [run.name for run in await self.runs.all()]
            hint = nearest(named, known) if known else "there is none yet"
            raise ConfigurationError(f"there is no run {named!r}; {hint}")
        return found

    async def progress(self, run: Run) -> Progress:
        """How far a run is."""
        return await self.runs.progress(run.run)

    async def reconfigure(self, run: Run, *, max_cost_usd: Decimal | None, sets: Mapping[str, str]) -> Run:
        """The run with a higher limit, or with what its events lacked, before it is resumed.

        A field that its first stage needs is given to events that lack it. Anything else may be set only while no event
        is done: half of a run's events would be of another run. Raises ``ConfigurationError`` for that, for what can't
        be set at all, and for a run that has ended.
        """
        if max_cost_usd is None and not sets:
            return run
        if run.state not in RESUMABLE:
            raise ConfigurationError(f"the run {run.name} is {run.state}; begin another one")
        await self.check_asked(run.stages, sets, max_cost_usd)
        first = run.stages[0]
        fills = {path: value for name, value in sets.items() if (path := needed_path(first, name)) is not None}
        others = {name: value for name, value in sets.items() if needed_path(first, name) is None}
        if others and any(place.next > place.first for place in (await self.runs.progress(run.run)).of_step(0)):
            raise ConfigurationError(
                f"--set {', '.join(others)}: events of the run {run.name} are done without it; begin another run"
            )
        config = replace(
            run.config,
            max_cost_usd=run.config.max_cost_usd if max_cost_usd is None else max_cost_usd,
            sets={**run.config.sets, **others},
            fills={**run.config.fills, **fills},
        )
        await self.runs.configure(run.run, config)
        return replace(run, config=config)

    async def check_asked(self, stages: tuple[str, ...], sets: Mapping[str, str], max_cost_usd: Decimal | None) -> None:
        """Raise ``ConfigurationError`` for stages and changes that can't be run here."""
        # What is wrong with its settings is said before anything is begun.
        _ = self.lineage
        check_sets(stages, sets)
        if "complete" in stages:
            check_keys(self.settings)
        elif max_cost_usd is not None and not pays(stages, self.settings):
            raise ConfigurationError(f"--max-cost: {', '.join(stages)} makes no calls, so there is nothing to limit")
        check_model(self.settings, sets.get("model"))
        changes = changes_for(stages[0], sets)
        await check_prompt(PgPrompts(self.database), changes)
        if changes.index.at is not None:
            check_kept(changes.index, await PgPassages(self.database).history())

    async def cancel(self, run: Run) -> bool:
        """Cancel a run; False where it had ended. Whoever leads it notices at its next note, and books what it paid.

        Of a run that nobody leads it is booked here; blocks until that is known and done, 10 s and more after a kill.
        What is not booked of one that was cancelled is booked by cancelling it again. Raises as ``Booking.settle``.
        """
        done = await self.runs.cancel(run.run)
        if done and run.state == "running" and run.lease_s <= 0:
            # Whoever led it died without a word.
            await self.telling.ended(run, run.epoch, "cancelled", "cancelled by an operator")
        if keeps_books(run) and await self._at_rest(run):
            await self._settle(run, over=True)
        return done

    async def _at_rest(self, run: Run) -> bool:
        """Whether a cancelled run is in nobody's hands, once a dead leader's lease is over."""
        deadline = asyncio.get_running_loop().time() + LEASE_S + RENEW_S
        while (found := await self.runs.get(run.run)) is not None and found.state == "cancelled":
            if found.lease_s <= 0:
                return True
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(LOOK_S)
        return False

    async def delete(self, run: Run) -> list[str]:
        """Remove the run's topics, groups and rows; the names of what was removed from the broker.

        Calls that it paid for stay in the journal and the ledger: what is not booked yet is booked first. Waits for
        whoever led a cancelled run to come to rest, so that nothing is written to topics that are gone. Raises
        ``ConfigurationError`` while it is led, and as ``Booking.settle``; then nothing is removed.
        """
        deadline = asyncio.get_running_loop().time() + REST_S
        led = await self.runs.get(run.run)
        if led is not None and led.lease_s > 0 and led.state == "running":
            raise ConfigurationError(f"the run {run.name} is running; headrace replay cancel {run.name} first")
        # From here on nobody takes it up again, also where it is not removed in the end.
        await self.runs.cancel(run.run)
        while led is not None and led.lease_s > 0:
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigurationError(
                    f"the run {run.name} is cancelled, and {led.owner} still finishes what it began; try again later"
                )
            await asyncio.sleep(LOOK_S)
            led = await self.runs.get(run.run)
        await self._settle(run, over=True)
        removed = await asyncio.to_thread(remove_topics, self.settings, run.lane)
        await self.runs.delete(run)
        return removed

    async def waits_for(self, run: Run) -> str:
        """What a run that goes on waits for now, in words; empty where it waits for nothing of live's."""
        told = await PostgresUses(self.database).of(run.run)
        return told.said if told is not None and run.state == "running" and told.age_s < TOLD_S else ""

    async def left_alone(self, run: Run) -> list[Left]:
        """Answers that a backfill left alone."""
        return await left_alone(self.database, run.run)
