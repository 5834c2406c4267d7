"""Publishes what an attempt writes while it writes it, and says when an attempt broke off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from processors.complete.deltas import DeltaSink, aborted_delta, live_delta
from processors.complete.live import LiveDeltas, Pace
from processors.complete.observer import CallObserver
from processors.complete.task import Task
from processors.failpoints import Failpoints
from processors.journal import AttemptRow, Lease, LeaseKeeper
from schemas.errors import DependencyDownError
from schemas.records import Delta


class Publishing:
    """The live deltas of calls. One for each worker; without a ``sink`` nothing is published."""

    def __init__(
        self, sink: DeltaSink | None, pace: Pace, *, keeper: LeaseKeeper, observer: CallObserver, failpoints: Failpoints
    ) -> None:
        self._sink, self._pace, self._keeper = sink, pace, keeper
        self._observer, self._failpoints = observer, failpoints

    @asynccontextmanager
    async def streaming(self, lease: Lease, attempt: AttemptRow, task: Task) -> AsyncIterator[LiveDeltas | None]:
        """The attempt's live deltas, where its request streams."""
        if self._sink is None or not task.streamed:
            yield None
            return

        def make(sequence: int, start: int, text: str, elapsed_ms: float) -> Delta:
            return live_delta(task.stored, attempt, sequence=sequence, start=start, text=text, elapsed_ms=elapsed_ms)

        async with LiveDeltas(
            self._sink,
            make,
            pace=self._pace,
            deployment=attempt.target.deployment,
            trusted=lambda: self._keeper.trusts(lease),
            observer=self._observer,
            failpoints=self._failpoints,
            ends=task.ends,
        ) as live:
            yield live

    async def abort(self, attempt: AttemptRow, task: Task) -> None:
        """Say that an attempt broke off. Where that can't be said, the next attempt's first delta tells it."""
        assert self._sink is not None
        try:
            async with asyncio.timeout(self._pace.settle_s):
                await self._sink.send(aborted_delta(task.stored, attempt))
        except (DependencyDownError, TimeoutError):
            self._observer.on_delta("lost")
        else:
            self._observer.on_delta("aborted")
            self._failpoints.hit("after_abort")
