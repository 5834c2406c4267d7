"""What a worker tells about itself: is it ready, does it make progress, and its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from faust.exceptions import ConsumerNotStarted
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from processors.clock import Clock
from schemas.errors import ConfigurationError
from streams.gate import Gate
from streams.load import load_of
from streams.metrics import Metrics
from streams.runner import StageRunner

# Beyond an attempt's time limit: retries with back-off, and a publish that waits for the broker.
PROGRESS_SLACK_S = 60.0


@dataclass(slots=True)
class Unit:
    """One running app of a worker: a stage's input with its consumer group."""

    group: str
    runner: StageRunner
    app: Any  # streams.app.StageApp
    limit_s: float
    acked: int = -1
    moved_at: float = field(default_factory=time.monotonic)
    redelivered: int = 0

    @property
    def assigned(self) -> bool:
        """Whether the group has given this app its partitions, be it none."""
        if not self.app.started or self.app.rebalancing:
            return False
        try:
            return self.app.consumer.assignment() is not None
        except ConsumerNotStarted:
            return False

    def stalled(self) -> bool:
        """Whether there is work and none of it was done for longer than an attempt and its slack may take.

        What waits because its stage is paused is no stall.
        """
        consumer = self.app.consumer
        acked, now = consumer.watermarks.acked_total + self.runner.moved, time.monotonic()
        if acked != self.acked or consumer.lag() == 0 or self.runner.pause.closed:
            self.acked, self.moved_at = acked, now
        return now - self.moved_at > self.limit_s + PROGRESS_SLACK_S


class Health:
    """Serves ``/livez``, ``/readyz`` and ``/metrics`` of one worker process."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self.units: Sequence[Unit] = ()
        self.gate: Gate | None = None
        # Why the worker is not ready yet, or no longer; None when nothing but the gate and the groups decide.
        self.phase: str | None = "starting"

    def not_ready(self) -> dict[str, str]:
        """The reasons why the worker is not ready; empty when it is."""
        reasons = dict(self.gate.down) if self.gate else {}
        if self.phase is not None:
            reasons["worker"] = self.phase
        reasons |= {unit.group: "no partitions assigned yet" for unit in self.units if not unit.assigned}
        return reasons

    def not_alive(self) -> dict[str, str]:
        """The groups that have work and make no progress. An event that waits at the gate is no stall."""
        if self.gate is not None and self.gate.down:
            for unit in self.units:
                unit.moved_at = time.monotonic()
            return {}
        assigned = (unit for unit in self.units if unit.assigned)
        return {unit.group: "has lag and acknowledges nothing" for unit in assigned if unit.stalled()}

    def paused(self) -> list[str]:
        """The stages of this worker that an operator paused. It is ready all the same: it would go on at once."""
        return sorted({unit.runner.stage.name for unit in self.units if unit.runner.pause.closed})

    def observe(self) -> None:
        """Bring the gauges up to date."""
        for unit in self.units:
            self._metrics.stage_paused.labels(*unit.runner.labels).set(unit.runner.pause.closed)
            if not unit.assigned:
                continue
            seen = unit.app.consumer.redelivered_total
            self._metrics.redeliveries.labels(*unit.runner.labels).inc(seen - unit.redelivered)
            unit.redelivered = seen
        for labels, load in load_of(self.units).items():
            self._metrics.in_flight.labels(*labels).set(load.in_flight)
            self._metrics.lag.labels(*labels).set(load.lag)
            self._metrics.oldest_unacked.labels(*labels).set(load.age_s(self._clock.now()) or 0.0)

    async def serve(self, host: str, port: int) -> tuple[web.AppRunner, int]:
        """Start serving; returns the runner to clean up and the port that was bound.

        Raises ``ConfigurationError`` where it can't listen there.
        """
        app = web.Application()
        app.router.add_get("/livez", self._page(self.not_alive))
        app.router.add_get("/readyz", self._page(self.not_ready))
        app.router.add_get("/metrics", self._render_metrics)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigurationError(
                f"worker.http_port: can't listen on {host}:{port} ({error.strerror}); end what listens there, name "
                "another port, or 0 for any that is free"
            ) from None
        return runner, int(runner.addresses[0][1])

    def _page(self, reasons: Callable[[], dict[str, str]]) -> Callable[[web.Request], Any]:
        async def page(_request: web.Request) -> web.Response:
            found, paused = reasons(), self.paused()
            body = {"ok": not found, "reasons": found, **({"paused": paused} if paused else {})}
            return web.json_response(body, status=503 if found else 200)

        return page

    async def _render_metrics(self, _request: web.Request) -> web.Response:
        self.observe()
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
