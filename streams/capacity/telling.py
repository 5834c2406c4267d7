"""What a live worker tells of the deployments that it calls: every second, and at once when it gets tighter.

Never on the way of a request: a task of its own looks at figures that are there, and writes. What can't be written is
counted and passed over; a replay that reads nothing new holds back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping

import structlog

from processors.complete.routes import Deployment
from processors.routing.use import Use
from streams.capacity.store import Uses
from streams.capacity.told import Told, endpoint_of
from streams.capacity.window import WINDOW_S, Highest, Need

INTERVAL_S = 1.0
# What live had open at a time, or took in a minute, within so long it may want again before a replay has made room.
PEAK_S = 300.0
# How often the figures are looked at in between; costs some microseconds.
LOOK_S = 0.1
# At the end of a worker.
FAREWELL_S = 2.0

log = structlog.get_logger(__name__)


class _Kept:
    """The last minutes of one deployment."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._highest, self._requests, self._tokens = Highest(PEAK_S), Need(PEAK_S), Need(PEAK_S)
        self._counted = (0, 0)

    def told(self, use: Use, now: float) -> Told:
        """With what it was used since the last look."""
        self._highest.add(use.most, now)
        self._requests.add(use.requests - self._counted[0], now)
        self._tokens.add(use.tokens - self._counted[1], now)
        self._counted = (use.requests, use.tokens)
        recently = use.throttled_s is not None and use.throttled_s < WINDOW_S
        return Told(
            name=self.deployment.name,
            in_flight=use.in_flight,
            most=self._highest.top(now),
            limit=use.limit,
            waiting=use.waiting,
            throttled_s=use.throttled_s if recently else None,
            requests=self._requests.total(now),
            tokens=self._tokens.total(now),
            requests_per_minute=self.deployment.requests_per_minute,
            tokens_per_minute=self.deployment.tokens_per_minute,
        )


class Figures:
    """A pool's figures by endpoint, with those of the last minutes."""

    def __init__(self, uses: Callable[[], Mapping[str, Use]], deployments: Iterable[Deployment]) -> None:
        self._uses = uses
        self._kept = {one.name: _Kept(one) for one in deployments}

    def now(self, now: float) -> dict[str, Told]:
        """As they are. Deployments that are one endpoint under two names are told together."""
        found: dict[str, Told] = {}
        for name, use in self._uses().items():
            kept = self._kept[name]
            told, endpoint = kept.told(use, now), endpoint_of(kept.deployment)
            found[endpoint] = told if endpoint not in found else _both(found[endpoint], told)
        return found


class Telling:
    """Tells for one worker. ``start`` it on its loop, and ``stop`` it at the end."""

    def __init__(
        self,
        figures: Figures,
        uses: Uses,
        *,
        holder: str,
        lane: str,
        failed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        look_s: float = LOOK_S,
    ) -> None:
        self._figures, self._uses, self._holder, self._lane = figures, uses, holder, lane
        self._failed, self._clock, self._look_s = failed, clock, look_s
        self._said: Mapping[str, Told] = {}
        self._said_at = float("-inf")
        self._complaint = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to tell. Does not block."""
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """Stop telling, and take away what was told. Waits two seconds at most; raises nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._uses.forget(self._holder)
        except Exception as error:
            log.warning("what the worker used of providers stays behind", error=type(error).__name__)

    async def look(self) -> bool:
        """Tell where it is time to, or where it got tighter; whether it did. Blocks on the store then."""
        now = self._clock()
        told = self._figures.now(now)
        if now - self._said_at < INTERVAL_S and not tighter(self._said, told):
            return False
        await self._uses.tell(self._holder, "live", self._lane, told)
        self._said, self._said_at = told, now
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
                self._complaint = ""
            except Exception as error:
                self._failed()
                if self._complaint != (complaint := type(error).__name__):
                    log.warning("replays are not told what is used of providers, and hold back", error=complaint)
                self._complaint = complaint
                await asyncio.sleep(INTERVAL_S)
            await asyncio.sleep(self._look_s)


def tighter(before: Mapping[str, Told], now: Mapping[str, Told]) -> bool:
    """Whether there is less room anywhere than was told."""
    return any(_tighter(before.get(endpoint), one) for endpoint, one in now.items())


def _tighter(before: Told | None, now: Told) -> bool:
    if before is None:
        return True
    fresh_refusal = now.throttled_s is not None and (before.throttled_s is None or now.throttled_s < before.throttled_s)
    return now.most > before.most or now.limit < before.limit or now.waiting > before.waiting or fresh_refusal


def _both(one: Told, other: Told) -> Told:
    """Two names of one endpoint: what is used adds up, and so do limits, for each name has its own."""
    refused = [told.throttled_s for told in (one, other) if told.throttled_s is not None]
    return Told(
        name=f"{one.name}+{other.name}",
        in_flight=one.in_flight + other.in_flight,
        most=one.most + other.most,
        limit=one.limit + other.limit,
        waiting=one.waiting + other.waiting,
        throttled_s=min(refused, default=None),
        requests=one.requests + other.requests,
        tokens=one.tokens + other.tokens,
        requests_per_minute=_sum(one.requests_per_minute, other.requests_per_minute),
        tokens_per_minute=_sum(one.tokens_per_minute, other.tokens_per_minute),
    )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
