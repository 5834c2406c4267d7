"""The gate: where events wait while a dependency is away, without a slot of a provider or a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog

from schemas.errors import DependencyDownError
from streams.metrics import Metrics

Probe = Callable[[], Awaitable[None]]

PROBE_INTERVAL_S = 2.0
PROBE_TIMEOUT_S = 4.0
REOPEN_INTERVAL_S = 0.5

log = structlog.get_logger(__name__)


class Released(Exception):  # noqa: N818 (control flow, not an error)
    """The worker stops: the event is let go without an acknowledgement and will be delivered again."""


class Gate:
    """Knows which dependencies answer. ``run`` probes them; stages report one that failed them."""

    def __init__(self, probes: Mapping[str, Probe], metrics: Metrics) -> None:
        self._probes = dict(probes)
        self._metrics = metrics
        self._down: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._released = False
        for name in self._probes:
            metrics.dependency_up.labels(name).set(1)

    @property
    def down(self) -> dict[str, str]:
        """The dependencies that are away, with the reason."""
        return dict(self._down)

    def report(self, error: DependencyDownError) -> bool:
        """A stage could not reach a dependency: it counts as away until its probe answers. False without a probe."""
        if error.dependency not in self._probes:
            return False
        if error.dependency not in self._down:
            log.warning("dependency is away", dependency=error.dependency, reason=str(error))
            self._down[error.dependency] = str(error)
            self._metrics.dependency_up.labels(error.dependency).set(0)
        self._wake.set()
        return True

    def release(self) -> None:
        """Let go of all that waits, now and later. What need not wait goes on."""
        self._released = True
        self._notify()

    async def wait(self, dependencies: Iterable[str]) -> None:
        """Return when all ``dependencies`` answer. Raises ``Released`` where it would wait and the worker stops."""
        names = tuple(dependencies)
        while any(name in self._down for name in names):
            if self._released:
                raise Released
            await self._changed.wait()

    async def run(self) -> None:
        """Probe every dependency for ever: slowly while it answers, soon again while it does not."""
        while True:
            await asyncio.gather(*(self._probe(name, probe) for name, probe in self._probes.items()))
            self._wake.clear()
            pause = REOPEN_INTERVAL_S if self._down else PROBE_INTERVAL_S
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
                await asyncio.sleep(REOPEN_INTERVAL_S)
            except TimeoutError:
                continue

    async def _probe(self, name: str, probe: Probe) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await probe()
        except DependencyDownError as error:
            self.report(error)
        except TimeoutError:
            self.report(DependencyDownError(name, f"no answer within {PROBE_TIMEOUT_S:g} s"))
        else:
            if self._down.pop(name, None) is not None:
                log.info("dependency answers again", dependency=name)
                self._metrics.dependency_up.labels(name).set(1)
                self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
