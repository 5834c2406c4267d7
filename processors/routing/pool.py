"""The deployments of a worker: who may call which of them now, and who waits.

A request that finds every place taken waits, for as long as it takes: saturation shows as lag, never as an error. One
that would have to wait for longer than it may, because all that it could use is down or asks to be left alone, is told
so at once.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from processors.complete.routes import Cause, Deployment, Group
from processors.routing.causes import NEUTRAL, Ended
from processors.routing.keys import Key
from processors.routing.member import Member
from processors.routing.observer import NullPoolObserver, PoolObserver
from processors.routing.spare import Everything, Spare
from processors.routing.strategy import choose
from processors.routing.use import Use

# Timers may be early by a little.
_SOON_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a call needs: one of the group's deployments, those in ``avoid`` only where no other has room.

    ``tokens`` are those of the prompt and the answer at most; ``costs`` the most it can cost, by deployment.
    """

    group: Group
    tokens: int = 0
    costs: Mapping[str, Decimal] = field(default_factory=dict)
    avoid: frozenset[str] = frozenset()
    # Not a repeat: it earns the deployment a part of one.
    first: bool = True


@dataclass(slots=True, eq=False)
class Seat:
    """The right to make one call at a deployment, with a key of it."""

    deployment: Deployment
    member: Member
    key: Key
    probe: bool
    tokens: int
    began: float
    left: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """None of them can be had for ``wait_s`` seconds; infinite where all keys are refused."""

    wait_s: float
    cause: Cause
    deployment: str

    @property
    def denied(self) -> bool:
        """Whether waiting is no use."""
        return math.isinf(self.wait_s)


@dataclass(slots=True, eq=False)
class _Waiter:
    ask: Ask
    future: asyncio.Future[Seat | None]


class Pool:
    """All deployments of one worker. Of one event loop; nothing but ``take`` blocks.

    With ``spare`` it takes only what others leave: what is lacking is waited for like any place that is taken.
    """

    def __init__(
        self,
        deployments: Iterable[Deployment],
        *,
        observer: PoolObserver | None = None,
        random_: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        spare: Spare | None = None,
    ) -> None:
        self.observer, spare = observer or NullPoolObserver(), spare or Everything()
        self._members = {one.name: Member(one, self.observer, spare) for one in deployments}
        self._random = random_ or random.Random()
        self._clock = clock
        self._waiting: deque[_Waiter] = deque()
        spare.watch(self._grant)

    def uses(self) -> dict[str, Use]:
        """How each deployment is used; ``most`` is since the last time that this was asked."""
        waiting: Counter[str] = Counter()
        for waiter in self._waiting:
            if not waiter.future.done() or waiter.future.result() is None:
                waiting.update(one.name for one in waiter.ask.group.deployments)
        now = self._clock()
        return {name: member.use(waiting[name], now) for name, member in self._members.items()}

    def member(self, name: str) -> Member:
        """What is known of a deployment."""
        return self._members[name]

    def may_retry(self, name: str) -> bool:
        """Whether a retry may be made because of a failure there; it is counted then."""
        return self._members[name].retries.take(self._clock())

    def usable(self, name: str) -> bool:
        """Whether the deployment has a key that is not refused."""
        return not self._members[name].keys.denied(self._clock())

    async def take(self, ask: Ask, *, patience_s: float = math.inf) -> Seat | Unavailable:
        """A seat, waited for without an end while places are taken, and for ``patience_s`` while none may be used.

        Whoever waits is served in the order of arrival. Cancelling it gives up the place in the queue.
        """
        until = self._clock() + patience_s
        waiter, taken = _Waiter(ask, asyncio.get_running_loop().create_future()), False
        self._waiting.append(waiter)
        self._grant()
        try:
            while True:
                if waiter.future.done():
                    seat = waiter.future.result()
                    if seat is not None:
                        taken = True
                        return seat
                    waiter.future = asyncio.get_running_loop().create_future()
                told = self._unavailable(ask, until - self._clock())
                if told is not None:
                    return told
                wait_s = self._wait_s(ask)
                await asyncio.wait((waiter.future,), timeout=wait_s + _SOON_S if wait_s else None)
                if not waiter.future.done():
                    self._grant()
        finally:
            self._waiting.remove(waiter)
            given = waiter.future.result() if waiter.future.done() else None
            if given is not None and not taken:
                # It was given at the very moment in which it was given up.
                self.leave(given)

    def at_once(self, ask: Ask) -> Seat | None:
        """A seat that is free now. Whoever waits for one of the same deployments had the choice before."""
        self._grant()
        return self._place(ask)

    def leave(self, seat: Seat, ended: Ended = NEUTRAL) -> None:
        """The call is over, or was never made. Leaving twice changes nothing."""
        if seat.left:
            return
        seat.left = True
        seat.member.end(seat.key, ended, probe=seat.probe, began=seat.began, tokens=seat.tokens, now=self._clock())
        if ended.finding != "answered":
            # What was there to wait for may have become longer than some are ready to wait.
            for waiter in self._waiting:
                if not waiter.future.done():
                    waiter.future.set_result(None)
        self._grant()

    def _grant(self) -> None:
        for waiter in list(self._waiting):
            if waiter.future.done() and waiter.future.result() is not None:
                continue
            seat = self._place(waiter.ask)
            if seat is not None:
                if waiter.future.done():
                    waiter.future = asyncio.get_running_loop().create_future()
                waiter.future.set_result(seat)
            elif all(member.full for member in self._members.values()):
                return

    def _place(self, ask: Ask) -> Seat | None:
        now = self._clock()
        members = [self._members[one.name] for one in ask.group.deployments]
        open_ = (one for one in members if not one.full and one.fits(ask.tokens))
        ready = [one for one in open_ if one.wait_s(ask.tokens, now) <= 0]
        ready = [one for one in ready if one.name not in ask.avoid] or ready
        if not ready:
            return None
        candidates = [one.candidate(ask.costs.get(one.name, Decimal(0)), now) for one in ready]
        member = self._members[choose(candidates, ask.group.strategy, self._random).name]
        key, probe = member.begin(ask.tokens, now)
        if ask.first:
            member.retries.first(now)
        return Seat(key.deployment, member, key, probe, ask.tokens, now)

    def _wait_s(self, ask: Ask) -> float:
        """How long until one of them may be used; 0 where one may be, and only has no place."""
        now = self._clock()
        return min(self._members[one.name].wait_s(ask.tokens, now) for one in ask.group.deployments)

    def _unavailable(self, ask: Ask, patience_s: float) -> Unavailable | None:
        now = self._clock()
        members = [self._members[one.name] for one in ask.group.deployments]
        first = min(members, key=lambda one: one.wait_s(ask.tokens, now))
        wait_s = first.wait_s(ask.tokens, now)
        if wait_s <= max(0.0, patience_s) and not math.isinf(wait_s):
            return None
        return Unavailable(wait_s, first.cause(now), first.name)
