"""One attempt's text on its way to ``deltas`` while the call runs.

At most one delta of an attempt is under way. What comes meanwhile is held and makes the next one longer, so a slow
broker never slows the call, the order is kept, and what arrives is always a beginning of the text without a gap. When
a delta can't be sent, or too much is held, the attempt sends no more of them: the closing delta has the whole text.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from processors.complete.deltas import DeltaSink
from processors.complete.observer import CallObserver
from processors.failpoints import Failpoints
from schemas.records import Delta

_LOG = logging.getLogger(__name__)

# Makes the delta of this number that starts at this character and holds this text, so many ms after the call was sent.
MakeDelta = Callable[[int, int, str, float], Delta]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When a delta is cut: ``interval_s`` after its first piece, or as soon as it has so many ``characters``.

    ``most_held``: characters that may wait for the broker; ``settle_s``: how long the last delta's acknowledgement is
    waited for once the call is over.
    """

    interval_s: float = 0.05
    characters: int = 256
    most_held: int = 65_536
    settle_s: float = 10.0


class LiveDeltas:
    """Cuts and sends in the background. Use it as a context around the attempt; leaving it stops the sending."""

    def __init__(
        self,
        sink: DeltaSink,
        make: MakeDelta,
        *,
        pace: Pace,
        deployment: str,
        trusted: Callable[[], bool],
        observer: CallObserver,
        failpoints: Failpoints,
        ends: float,
    ) -> None:
        """``trusted``: whether the attempt is still this worker's; once it is not, nothing more is sent.

        ``ends``: the monotonic time after which no acknowledgement is waited for.
        """
        self._ends = ends
        self._sink, self._make, self._pace, self._trusted = sink, make, pace, trusted
        self._deployment, self._observer, self._failpoints = deployment, observer, failpoints
        self._began = time.monotonic()
        self._last_at: float | None = None
        self._held: list[str] = []
        self._held_chars = 0
        self._given: list[str] = []
        self._given_chars = 0
        self._ready, self._full = asyncio.Event(), asyncio.Event()
        self._sending = self._over = False
        self.lost = False
        self._task: asyncio.Task[None] | None = None

    @property
    def given(self) -> str:
        """The text that was handed to the sink, acknowledged or not: what may have become public is a part of it."""
        return "".join(self._given)

    def hear(self, text: str, at: float) -> None:
        """Take a piece of the text that came at the monotonic time ``at``. Does not block."""
        if self._last_at is not None:
            self._observer.on_gap(self._deployment, at - self._last_at)
        self._last_at = at
        if self.lost:
            return
        self._held.append(text)
        self._held_chars += len(text)
        if self._held_chars > self._pace.most_held:
            self._lose("too much of it waits for the broker")
            return
        self._ready.set()
        if self._held_chars >= self._pace.characters:
            self._full.set()

    async def __aenter__(self) -> LiveDeltas:
        self._began = time.monotonic()
        self._task = asyncio.create_task(self._run(), name="deltas")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut no more. After an ordinary end, wait for the delta under way, ``settle_s`` at most."""
        assert self._task is not None
        self._over = True
        try:
            if self._sending and kind is None:
                await asyncio.wait((self._task,), timeout=max(0.0, self._settled_by() - time.monotonic()))
                if not self._task.done():
                    self._lose("the broker did not acknowledge it in time")
        finally:
            self._task.cancel()
        await asyncio.wait((self._task,))

    def _settled_by(self) -> float:
        return min(time.monotonic() + self._pace.settle_s, self._ends)

    async def _run(self) -> None:
        while not (self._over or self.lost):
            await self._ready.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.interval_s):
                    await self._full.wait()
            await self._send()

    async def _send(self) -> None:
        text = "".join(self._held)
        if not self._trusted():
            self._lose("another worker may have the call by now")
        if self.lost or not text:
            return
        self._let_go()
        elapsed_ms = (time.monotonic() - self._began) * 1000
        delta = self._make(len(self._given), self._given_chars, text, elapsed_ms)
        self._given.append(text)
        self._given_chars += len(text)
        self._sending = True
        try:
            await self._sink.send(delta)
        except Exception as error:
            # Whatever it was, the reply matters more. Without the message, which may hold a value.
            self._lose(type(error).__name__)
            return
        finally:
            self._sending = False
        self._observer.on_delta("sent")
        self._failpoints.hit("after_delta")

    def _lose(self, reason: str) -> None:
        if not self.lost:
            _LOG.warning("no more deltas of an attempt at %s: %s", self._deployment, reason)
            self._observer.on_delta("lost")
        self.lost = True
        self._let_go()

    def _let_go(self) -> None:
        self._held, self._held_chars = [], 0
        self._ready.clear()
        self._full.clear()
