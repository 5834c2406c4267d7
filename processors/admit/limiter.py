"""Charges requests to their buckets, as many at a time as came while the last ones were charged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from processors.admit.buckets import Buckets, Draw, Rate
from processors.admit.limits import Step
from processors.admit.slices import SLICE_S, Slices
from processors.ruling import Verdict
from schemas.errors import DependencyDownError

# Charges in one round trip.
LARGEST = 256

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """The steps of one request. ``longest_wait_s``: how long it may wait for a place; 0: it does not wait."""

    steps: tuple[Step, ...]
    longest_wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Charged:
    """What came of a charge. ``by`` is the step that is short; ``paid`` is what was taken, to be given back.

    ``wait_s``: queued, until the step's amount is there; rejected, until that of another request may be, and ``None``
    where it never will be.
    """

    verdict: Verdict
    by: str = ""
    wait_s: float | None = 0.0
    paid: tuple[Step, ...] = ()


class Charger(Protocol):
    """Decides whether a request fits its limits now."""

    async def charge(self, charge: Charge) -> Charged:
        """Take what the request needs from every step, or nothing of those behind the first that is short.

        ``admitted``, ``queued`` (its place is taken; it goes on after ``wait_s`` with the steps behind ``by``) or
        ``rejected``. Blocks for a round trip at most, two where requests queue, none while the worker's slices last.
        Raises ``DependencyDownError``.
        """
        ...

    def give_back(self, steps: Sequence[Step]) -> None:
        """Put back what was paid for a request that does not go on. Does not block."""
        ...


@dataclass(slots=True)
class _Waiting:
    charge: Charge
    future: asyncio.Future[Charged] = field(compare=False)


class Limiter:
    """A ``Charger`` over buckets that all workers share. One for each worker; call ``close`` after the last charge."""

    def __init__(
        self, buckets: Buckets, *, slice_s: float = SLICE_S, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._buckets, self._slice_s, self._monotonic = buckets, slice_s, monotonic
        self._slices = Slices(slice_s=slice_s)
        self._waiting: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def charge(self, charge: Charge) -> Charged:
        future: asyncio.Future[Charged] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(charge, future))
        self._go()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(future.result().paid)
            raise

    def give_back(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._slices.give(step, self._monotonic())
        self._later()

    async def close(self) -> None:
        """Give back what was drawn and not used. Raises nothing: what can't be given back is lost."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await asyncio.wait((self._task,))
        draws = self._slices.stale(self._monotonic(), all_of_it=True)
        with suppress(DependencyDownError):
            if draws:
                await self._buckets.draw(draws)

    def _go(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        while self._waiting:
            batch = self._waiting[:LARGEST]
            del self._waiting[:LARGEST]
            try:
                outcomes = await self._charge([one.charge for one in batch])
            except Exception as error:
                for one in batch:
                    if not one.future.done():
                        one.future.set_exception(error)
                continue
            for one, charged in zip(batch, outcomes, strict=True):
                if one.future.done():
                    # Whoever gave up waiting is charged when its event comes again.
                    self.give_back(charged.paid)
                else:
                    one.future.set_result(charged)
        self._later()

    async def _charge(self, charges: Sequence[Charge]) -> list[Charged]:
        await self._meet(charges)
        outcomes: list[Charged] = []
        queued: list[tuple[int, Step]] = []
        # By bucket, what requests of this batch were put down for.
        owed: dict[str, float] = {}
        for charge in charges:
            charged, short = self._settle(charge, owed)
            if short is not None and charged.verdict == "queued":
                owed[short.bucket] = owed.get(short.bucket, 0.0) + short.amount
                queued.append((len(outcomes), short))
            outcomes.append(charged)
        if queued:
            await self._owe(queued, owed)
        return outcomes

    async def _meet(self, charges: Sequence[Charge]) -> None:
        """Draw what the charges need and the slices do not have."""
        demand: dict[str, tuple[Rate, int]] = {}
        for step in (step for charge in charges for step in charge.steps):
            _, amount = demand.get(step.bucket, (step.rate, 0))
            demand[step.bucket] = (step.rate, amount + step.amount)
        draws = self._slices.wanted(demand, self._monotonic())
        if draws:
            self._slices.drawn(dict(await self._buckets.draw(draws)), self._monotonic())

    def _settle(self, charge: Charge, owed: dict[str, float]) -> tuple[Charged, Step | None]:
        large = next((step for step in charge.steps if step.amount > step.rate.burst), None)
        if large is not None:
            return Charged(verdict="rejected", by=large.name, wait_s=None), None
        paid: list[Step] = []
        for step in charge.steps:
            before = owed.get(step.bucket, 0.0)
            if not before and not self._slices.short(step):
                self._slices.use(step)
                paid.append(step)
                continue
            wait_s = self._slices.wait_s(step, before=before)
            if 0 < charge.longest_wait_s >= wait_s:
                return Charged(verdict="queued", by=step.name, wait_s=wait_s, paid=(*paid, step)), step
            for each in paid:
                self._slices.give(each, self._monotonic())
            return Charged(verdict="rejected", by=step.name, wait_s=wait_s), None
        return Charged(verdict="admitted", paid=tuple(paid)), None

    async def _owe(self, queued: Sequence[tuple[int, Step]], owed: dict[str, float]) -> None:
        """Take the places of those that wait."""
        rates = {step.bucket: step.rate for _, step in queued}
        await self._buckets.draw(
            [Draw(bucket=bucket, rate=rates[bucket], must=int(amount)) for bucket, amount in owed.items()]
        )
        for _, step in queued:
            self._slices.owed(step, step.amount)

    def _later(self) -> None:
        """Give back before long what nobody uses."""
        if self._timer is None or self._timer.cancelled():
            self._timer = asyncio.get_running_loop().call_later(1.1 * self._slice_s, self._tidy)

    def _tidy(self) -> None:
        self._timer = None
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._return())
        else:
            self._later()

    async def _return(self) -> None:
        draws = self._slices.stale(self._monotonic())
        try:
            if draws:
                await self._buckets.draw(draws)
        except Exception as error:
            # It comes in again with time.
            log.warning("unused shares of limits could not be given back", error=type(error).__name__)
        if self._waiting:
            await self._work()
        elif not self._slices.empty:
            self._later()


class FakeCharger:
    """Gives the verdicts that a test scripts, then ``admitted``."""

    def __init__(self, *verdicts: Charged) -> None:
        self.verdicts = list(verdicts)
        self.charges: list[Charge] = []
        self.given_back: list[Step] = []

    async def charge(self, charge: Charge) -> Charged:
        self.charges.append(charge)
        return self.verdicts.pop(0) if self.verdicts else Charged(verdict="admitted", paid=charge.steps)

    def give_back(self, steps: Sequence[Step]) -> None:
        self.given_back += steps
