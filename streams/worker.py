"""A worker process: connects, runs its stages, and drains when it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog
import uvloop

from processors.admit.in_flight import PostgresInFlight
from processors.bodies import PostgresBodies
from processors.clock import DatabaseClock
from processors.deferred import PostgresDeferred
from processors.failpoints import failpoints
from processors.finality import PostgresFinality
from processors.postgres import Database
from processors.redrive import PostgresRedrives
from processors.release.stage import Release
from schemas.errors import ConfigurationError, DependencyDownError
from streams import security
from streams.acls import stage_needs
from streams.app import create_app, group_name
from streams.authorization import Authorization
from streams.claims import Claims
from streams.control import ControlFollower
from streams.dead_letters import safe_message, safe_trace
from streams.deferring import PutBack
from streams.deployed import check_keys
from streams.gate import Gate
from streams.health import Health, Unit
from streams.logs import configure_logs
from streams.metrics import Metrics
from streams.migrated import check_migrated
from streams.ports import Ports
from streams.probes import probe_embeddings, probe_registry
from streams.producer import AUTHORIZATION, Producer
from streams.purging import Purge, Purger
from streams.reports import Identity, Reporter
from streams.runner import StageRunner
from streams.services import Services
from streams.settings import Settings
from streams.slots import WeightedSlots
from streams.spending import tellings
from streams.stages import STAGES, Effect, Stage
from streams.topics import input_topics, topic_name
from streams.window_runner import WindowRunner

CLOCK_INTERVAL_S = 10.0
CONNECT_PAUSE_S = 1.0
# A chunk waits so long for others: one request to the broker for each would take a third of the stage's time.
BATCH_S = 0.005
STOP_TIMEOUT_S = 10.0

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What a worker process runs. ``slot`` is stable and unique per group: a restarted worker keeps its partitions."""

    stages: tuple[str, ...]
    slot: str
    lane: str = "live"
    concurrency: int | None = None
    cpu: int | None = None


def run_worker(plan: WorkerPlan, settings: Settings) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit code: 0 after a drain, 1 after a crash."""
    if "complete" in plan.stages:
        check_keys(settings)
    configure_logs(settings.worker)
    unknown = [name for name in plan.stages if name not in STAGES]
    if unknown or not plan.stages:
        raise ConfigurationError(f"no stage {', '.join(unknown) or 'is named'}; there are {', '.join(STAGES)}")
    for name in plan.stages:
        tuned = settings.stages.get(name)
        if STAGES[name].stateful and tuned is not None and tuned.concurrency not in (None, 1):
            raise ConfigurationError(f"stages.{name}.concurrency has to be 1: its events need their order; add workers")
    settings = security.for_stages(settings, plan.stages)
    if plan.cpu is not None and hasattr(os, "sched_setaffinity"):
        # The consumer threads and the loop share one interpreter lock; on one core they don't fight over it.
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[plan.cpu % len(allowed)]})
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    return asyncio.run(Worker(plan, settings).run())


def grace_s(settings: Settings, stages: Iterable[str]) -> float:
    """How long a worker of these stages may take to finish what is in process."""
    return settings.worker.grace_s or max(STAGES[name].limit_s(settings) for name in stages)


def warn_of_grace(settings: Settings, stages: Iterable[str]) -> None:
    """Log which stages a stop may cut off in a call that is paid: ``worker.grace_s`` is less than one may take."""
    grace = settings.worker.grace_s
    for stage in (STAGES[name] for name in stages):
        limit_s = stage.limit_s(settings)
        if grace is not None and stage.effect is Effect.PAYS and grace < limit_s:
            todo = "leave worker.grace_s out or raise it: a call that a stop cuts off may be paid twice"
            log.warning("the grace is short", stage=stage.name, grace_s=grace, limit_s=limit_s, todo=todo)


class Worker:
    """The process's life: connect, start, wait, drain, stop."""

    def __init__(self, plan: WorkerPlan, settings: Settings) -> None:
        self._plan = plan
        self._settings = settings
        self._metrics = Metrics()
        self._clock = DatabaseClock()
        self._health = Health(self._metrics, self._clock)
        self._stop = asyncio.Event()
        self._crashed: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._batching: Producer | None = None

    async def run(self) -> int:
        """The whole life of the worker. Never raises for a dependency that is away."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with AsyncExitStack() as stack:
            web, port = await self._health.serve(self._settings.worker.http_host, self._settings.worker.http_port)
            stack.push_async_callback(web.cleanup)
            log.info("worker starts", stages=self._plan.stages, lane=self._plan.lane, http_port=port)
            warn_of_grace(self._settings, self._plan.stages)
            services = await self._unless_stopped(self._connect(stack))
            if services is None:
                return 0
            units = [unit for name in self._plan.stages for unit in self._units(STAGES[name], services)]
            self._health.units = units
            self._report(services, port, stack)
            hold_s = self._settings.worker.lease_s
            deferring = [name for name in self._plan.stages if STAGES[name].defers or STAGES[name].puts_off]
            self._background(*(PutBack(name, services, hold_s=hold_s).run() for name in deferring))
            self._background(*(one.run() for one in tellings(self._plan.stages, self._database, services)))
            started = await self._unless_stopped(self._start(units))
            if started is not None:
                self._health.phase = None
                gc.collect()
                gc.freeze()
                log.info("worker is ready", groups=[unit.group for unit in units])
                await self._stop.wait()
            await self._drain(units)
        log.info("worker stopped", crashed=self._crashed is not None)
        return 1 if self._crashed else 0

    async def _unless_stopped(self, work: Awaitable[T]) -> T | None:
        """The result of ``work``, or None when the worker is to stop before it is done."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            return task.result()
        task.cancel()
        await asyncio.wait((task,))
        return None

    async def _connect(self, stack: AsyncExitStack) -> Services:
        settings, plan = self._settings, self._plan
        database = await self._retry(
            lambda: Database.open(
                settings.postgres.dsn.get_secret_value(),
                max_size=settings.postgres.pool_size,
                application_name=f"headrace {'+'.join(plan.stages)}",
                patient=True,
            )
        )
        stack.push_async_callback(database.close)
        self._database = database
        self._clock.set(await self._retry(database.now))
        await self._retry(lambda: check_migrated(database))
        registry = settings.registry
        codec = await self._retry(lambda: security.codec(registry))
        producer = Producer(settings.kafka)
        await self._retry(producer.start)
        stack.push_async_callback(producer.stop)
        if any(STAGES[name].stateful for name in plan.stages):
            self._batching = Producer(settings.kafka, linger_s=BATCH_S)
            await self._retry(self._batching.start)
            stack.push_async_callback(self._batching.stop)
        needs = {need for name in plan.stages for need in stage_needs(settings, plan.lane, STAGES[name])}
        producers = [producer, self._batching] if self._batching else [producer]
        allowed = Authorization(settings.kafka, needs, producers=producers).probe
        guarded = {AUTHORIZATION: allowed} if security.secured(settings.kafka) else {}
        for probe in guarded.values():
            await self._retry(probe)
        control = ControlFollower(
            settings.kafka,
            topic_name(settings.prefix, plan.lane, "control"),
            codec,
            metrics=self._metrics,
            now=self._clock.now,
            kept=settings.retention.resolved().horizon,
        )
        stack.push_async_callback(control.stop)
        await self._retry(control.start)
        probes = {
            "postgres": database.ping,
            "kafka": producer.ping,
            "registry": probe_registry(registry),
            "embeddings": probe_embeddings(settings.embeddings),
        }
        # Nothing that its stages do without may make a worker unready.
        wanted = frozenset().union(*(STAGES[name].probed for name in plan.stages))
        gate = Gate({**{name: probes[name] for name in wanted}, **guarded}, self._metrics)
        self._health.gate = gate
        self._background(gate.run(), control.run(), self._follow_clock(database, gate))
        self._purge(database, gate)
        points = failpoints(settings.worker.failpoint)
        self._ports = Ports(
            settings, plan.lane, database, codec, self._clock, control, self._metrics, points, stack, producer
        )
        return Services(
            prefix=settings.prefix,
            lane=plan.lane,
            codec=codec,
            producer=producer,
            finality=PostgresFinality(database),
            redrives=PostgresRedrives(database),
            deferred=PostgresDeferred(database),
            gate=gate,
            clock=self._clock,
            control=control,
            metrics=self._metrics,
            failpoints=points,
            crash=self._crash,
            log_content=settings.worker.log_content,
            tenants=frozenset(settings.tenant_topics),
            caps=settings.caps,
            in_flight=PostgresInFlight(database),
            claims=Claims(PostgresBodies(database), codec, most_bytes=settings.bodies.max_bytes),
        )

    def _units(self, stage: Stage, services: Services) -> list[Unit]:
        tuned = self._settings.stages.get(stage.name)
        concurrency = self._plan.concurrency or (tuned and tuned.concurrency) or stage.concurrency
        concurrency = 1 if stage.stateful else concurrency or self._settings.call_concurrency
        timeout_s = stage.limit_s(self._settings)
        shared = stage.shared_slots and len(stage.inputs) > 1
        slots = WeightedSlots(concurrency, stage.shares()) if shared else None
        processor = stage.build(self._ports)
        units = []
        for source in stage.inputs:
            runner: StageRunner
            if isinstance(processor, Release):
                batching = replace(services, producer=self._batching or services.producer)
                runner = WindowRunner(stage, source, processor, batching, timeout_s=timeout_s)
            else:
                runner = StageRunner(stage, source, processor, services, slots=slots, timeout_s=timeout_s)
            group = group_name(services.prefix, services.lane, stage.group_of(source))
            app = create_app(
                self._settings,
                group=group,
                topics=input_topics(self._settings, services.lane, source.kind),
                slot=self._plan.slot,
                concurrency=concurrency,
                take=runner.take,
                buffer=stage.buffer,
                gather_s=stage.gather_s,
            )
            runner.consumer = app.consumer
            limit_s = timeout_s
            if isinstance(runner, WindowRunner):
                runner.consumer.forgotten.append(runner.forget)
                # An open stream is no stall before its own deadline.
                limit_s += self._settings.release.stall_s
            units.append(Unit(group, runner, app, limit_s))
        return units

    async def _start(self, units: Sequence[Unit]) -> bool:
        await asyncio.gather(*(unit.app.start() for unit in units))
        self._background(*(self._watch(unit) for unit in units))
        self._background(*(unit.runner.run() for unit in units if isinstance(unit.runner, WindowRunner)))
        return True

    async def _drain(self, units: Sequence[Unit]) -> None:
        """Take nothing new, let go of what waits, wait for what is in process, then commit and stop."""
        self._health.phase = "stopping"
        if self._health.gate is not None:
            self._health.gate.release()
        for unit in units:
            unit.runner.drain()
        if self._crashed is None:
            idle = asyncio.gather(*(unit.runner.idle.wait() for unit in units))
            grace = grace_s(self._settings, self._plan.stages)
            try:
                await asyncio.wait_for(idle, grace)
            except TimeoutError:
                log.warning("in-flight work is let go", grace_s=grace)
        stops = asyncio.gather(*(unit.app.stop() for unit in units), return_exceptions=True)
        try:
            await asyncio.wait_for(stops, STOP_TIMEOUT_S)
        except TimeoutError:
            log.warning("an app did not stop in time", timeout_s=STOP_TIMEOUT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _crash(self, error: BaseException) -> None:
        self._crashed = self._crashed or error
        self._stop.set()

    def _background(self, *coroutines: Any) -> None:
        for coroutine in coroutines:
            task = asyncio.ensure_future(coroutine)
            task.add_done_callback(self._background_done)
            self._tasks.append(task)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("a background task failed", reason=safe_message(error), trace=safe_trace(error))
            self._crash(error)

    async def _watch(self, unit: Unit) -> None:
        """Turn a crash inside Faust into the end of the process."""
        await unit.app._crashed.wait()
        self._crash(unit.app.crash_reason or RuntimeError(f"{unit.group} crashed"))

    async def _follow_clock(self, database: Database, gate: Gate) -> None:
        while True:
            await asyncio.sleep(CLOCK_INTERVAL_S)
            try:
                self._clock.set(await database.now())
            except DependencyDownError as error:
                gate.report(error)

    def _report(self, services: Services, port: int, stack: AsyncExitStack) -> None:
        """Tell every few seconds how it goes, and take the report away at an orderly end."""
        plan = self._plan
        reporter = Reporter(
            Identity(
                lane=plan.lane,
                slot=plan.slot,
                stages=plan.stages,
                host=self._settings.worker.http_host,
                port=port,
            ),
            self._database,
            health=self._health,
            metrics=self._metrics,
            clock=self._clock,
            offset=lambda: services.control.offset,
        )
        self._background(reporter.run())

        async def farewell() -> None:
            if self._crashed is None:
                await reporter.remove()

        stack.push_async_callback(farewell)

    def _purge(self, database: Database, gate: Gate) -> None:
        """Delete in the background what is kept for long enough, unless the settings leave that to others."""
        retention = self._settings.retention
        if retention.purge_interval_s > 0:
            purger = Purger(
                Purge(database, retention.resolved(), batch=retention.purge_batch),
                interval_s=retention.purge_interval_s,
                on_purged=lambda table, rows: self._metrics.purged.labels(table).inc(rows),
                on_down=gate.report,
            )
            self._background(purger.run())

    async def _retry(self, work: Callable[[], Awaitable[T]]) -> T:
        """Call until the dependency answers. A missing topic or schema is waited for too: it may be on its way."""
        said = ""
        while True:
            try:
                return await work()
            except (DependencyDownError, ConfigurationError) as error:
                if said != str(error):
                    log.warning("waiting to start", reason=str(error))
                said = self._health.phase = str(error)
                await asyncio.sleep(CONNECT_PAUSE_S)
