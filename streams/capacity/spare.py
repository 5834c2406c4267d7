"""What live workers leave of the providers, as a replay sees it and takes it.

Of a deployment's places live has those that it used within the last minutes, and a reserve beside; a replay takes of
the rest, beginning with a few. It takes none while live waits for a place there, for a while after the provider refused
a call of either, and while a worker that may be calling is not heard of.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from processors.complete.routes import Deployment
from streams.capacity.rest import Rest, Sight, rest_of
from streams.capacity.told import Holder, Told, endpoint_of
from streams.capacity.window import Highest, Minute

# After a refusal nobody takes a place that live may need.
HOLD_S = 10.0
# What is taken at first, and how much more at every look at which all of it was used.
FIRST, MORE = 4, 2
# Begun and not ended, for each place: who prepares a call holds no place yet.
AHEAD = 2
_REFUSED = "its provider refuses calls: there are too many"
_UNKNOWN = "it is not known yet what live leaves of it"


class _Shared:
    """One endpoint: what a replay knows of it between two looks. Several deployments may be the same one."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        # Of live also what workers used that are gone by now.
        self.live, self.requests, self.tokens = Highest(), Minute(), Minute()
        self.rest = Rest(why=_UNKNOWN)
        self.ceiling = float(FIRST)
        self.refused_at = float("-inf")
        # A call of this replay: what others are told is not told back.
        self.own_refused_at: float | None = None
        self.open: Counter[str] = Counter()
        self.most = 0

    @property
    def in_flight(self) -> int:
        """Calls that are open there, under every name."""
        return self.open.total()

    def refused(self, at: float) -> None:
        """The provider refused a call then: for a while nothing, and half as much afterwards."""
        if at > self.refused_at + HOLD_S:
            self.ceiling = max(1.0, self.ceiling / 2)
        self.refused_at = max(self.refused_at, at)


class Leftover:
    """A ``Spare`` for a replay: what live leaves, as of the last look. Of one event loop; only ``room`` blocks."""

    def __init__(
        self, deployments: Iterable[Deployment], *, lane: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``lane`` is the one whose workers ``members`` counts."""
        by_name = {one.name: one for one in deployments}
        self._by_endpoint = {endpoint_of(one): _Shared(one) for one in by_name.values()}
        self._shared = {name: self._by_endpoint[endpoint_of(one)] for name, one in by_name.items()}
        self._lane, self._clock = lane, clock
        self._looks: list[Callable[[], None]] = []
        self._moved = asyncio.Event()
        self._prepared = 0
        # Workers that the lane's consumer group has, once that is known; those that tell nothing are not known.
        self.members: int | None = None

    def places(self, deployment: str) -> int:
        shared = self._shared[deployment]
        return max(0, shared.rest.places - shared.in_flight + shared.open[deployment])

    def fits(self, deployment: str, tokens: int) -> bool:
        return self._shared[deployment].rest.fits(tokens)

    def began(self, deployment: str, tokens: int) -> None:
        shared, now = self._shared[deployment], self._clock()
        shared.rest = shared.rest.less(tokens)
        shared.requests.add(1, now)
        shared.tokens.add(tokens, now)
        shared.open[deployment] += 1
        shared.most = max(shared.most, shared.in_flight)

    def ended(self, deployment: str) -> None:
        self._shared[deployment].open[deployment] -= 1

    def unsent(self, deployment: str, tokens: int) -> None:
        shared, now = self._shared[deployment], self._clock()
        shared.requests.add(-1, now)
        shared.tokens.add(-tokens, now)

    def throttled(self, deployment: str) -> None:
        shared = self._shared[deployment]
        shared.own_refused_at = self._clock()
        shared.refused(shared.own_refused_at)
        shared.rest = Rest(why=_REFUSED)

    def watch(self, look: Callable[[], None]) -> None:
        self._looks.append(look)

    def decide(self, holders: Sequence[Holder]) -> tuple[Mapping[str, Told], str]:
        """What is taken, given what others tell: by endpoint, and in words what is waited for."""
        now = self._clock()
        told = {}
        for endpoint, shared in self._by_endpoint.items():
            self._look(endpoint, shared, holders, now)
            told[endpoint] = _told(shared, now)
        self._moved.set()
        for look in self._looks:
            look()
        return told, self.said

    def blind(self, why: str) -> None:
        """Take nothing: it can't be known what live leaves."""
        for shared in self._by_endpoint.values():
            shared.rest = Rest(why=why)

    @property
    def said(self) -> str:
        """Which deployments are waited for, and why; empty where there is room."""
        found = ((one.deployment.name, one.rest.why) for one in self._by_endpoint.values())
        return "; ".join(f"{name}: {why}" for name, why in found if why)

    async def room(self, deployments: Collection[str]) -> None:
        """Wait until one more call may be prepared for one of these deployments."""
        while self._prepared >= AHEAD * sum(self.places(name) for name in deployments):
            self._moved.clear()
            await self._moved.wait()

    def prepare(self) -> None:
        """A call is prepared that will need a place."""
        self._prepared += 1

    def done(self) -> None:
        """It is over."""
        self._prepared -= 1
        self._moved.set()

    def _look(self, endpoint: str, shared: _Shared, holders: Sequence[Holder], now: float) -> None:
        if self.members is None:
            return
        sight = Sight.of(holders, endpoint, lane=self._lane, members=self.members)
        shared.live.add(sight.most, now)
        if sight.refused_s is not None:
            shared.refused(now - sight.refused_s)
        if shared.most >= shared.ceiling and now - shared.refused_at > HOLD_S:
            shared.ceiling = min(float(shared.deployment.max_concurrency), shared.ceiling + MORE)
        shared.most = shared.in_flight
        if now - shared.refused_at < HOLD_S:
            shared.rest = Rest(why=_REFUSED)
            return
        shared.rest = rest_of(
            sight,
            shared.deployment,
            used=shared.live.top(now),
            requests=shared.requests.total(now),
            tokens=shared.tokens.total(now),
            ceiling=math.floor(shared.ceiling),
        )


def _told(shared: _Shared, now: float) -> Told:
    one = shared.deployment
    return Told(
        name=one.name,
        in_flight=shared.in_flight,
        # Calls that are open stay open when less may be.
        most=max(shared.rest.places, shared.in_flight),
        limit=one.max_concurrency,
        throttled_s=None if shared.own_refused_at is None else now - shared.own_refused_at,
        requests=shared.requests.total(now),
        tokens=shared.tokens.total(now),
    )
