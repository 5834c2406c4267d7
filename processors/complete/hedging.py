"""Hedging: a second call is sent while the first is open and silent; the first reply is taken, the other call closed.

Both are rows of the journal that are committed before they are sent, and both are booked with the end that they have in
common, in one transaction: the one that lost at its upper bound, unless it is known what it cost.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace

from processors.clock import Clock
from processors.complete.observer import CallObserver
from processors.complete.places import Places
from processors.complete.settling import NOT_SENT, answered, done, failed
from processors.complete.target import readdressed, target_of
from processors.complete.task import Sending, Task
from processors.complete.timing import left_of
from processors.journal import AttemptRow, Granted, Journal, LeaseKeeper, Settled, Target
from processors.journal.protocol import CANCELLED, HEDGE_LOST, close, tries, unknown
from processors.model.port import Began, ModelReply
from processors.routing import Seat
from processors.routing.causes import UNUSED, ended_with
from processors.routing.hedge_pace import HedgePace, Wait
from schemas.errors import DependencyDownError, FencedError, ProviderError, RefusedError
from schemas.records import Hedge

# Sends one attempt of a task; raises ``RefusedError`` when the request is cancelled, and ``ProviderError``.
SendCall = Callable[[AttemptRow, Sending, Began | None], Awaitable[ModelReply]]

# How the attempt is booked that was opened beside the first, which had its reply before this one was sent.
_NOT_NEEDED = replace(NOT_SENT, error_class="policy", error_code=HEDGE_LOST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """How one call ended: by a reply or an error."""

    attempt: AttemptRow
    sending: Sending
    duration_ms: float
    reply: ModelReply | None = None
    error: ProviderError | RefusedError | None = None

    @property
    def decides(self) -> bool:
        """Whether no other call is waited for: there is a reply, or nobody wants one any more."""
        return self.reply is not None or isinstance(self.error, RefusedError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raced:
    """The call that decided. The last of ``attempts`` is its own, which is open; ``others`` is how to book the other.

    ``hedge``: what to say of it; ``None`` where no second call was sent.
    """

    heard: Heard
    attempts: tuple[AttemptRow, ...]
    others: Mapping[str, Settled] = field(default_factory=dict)
    hedge: Hedge | None = None


class Hedging:
    """Sends calls, each with a second one where its route has that. One for each worker."""

    def __init__(
        self, journal: Journal, *, places: Places, keeper: LeaseKeeper, clock: Clock, observer: CallObserver
    ) -> None:
        self._journal, self._places, self._pool, self._keeper = journal, places, places.pool, keeper
        self._clock, self._observer = clock, observer
        # By route and deployments: what a request may use of a route depends on what it asks for.
        self._paces: dict[tuple[str, ...], HedgePace] = {}

    async def run(
        self, granted: Granted, attempts: tuple[AttemptRow, ...], sending: Sending, task: Task, call: SendCall
    ) -> Raced:
        """Send the last of ``attempts``, and a second call beside it where that is due; in a run, nobody waits for one.

        Blocks for the call that decides, and for the other one to be closed. Leaves the seat of the other one; that of
        ``Raced.heard`` is the caller's to leave.
        """
        if sending.seat.left:
            # Its reply is here, by batch: nothing is open, and its hours say nothing of how long others take to begin.
            return Raced(heard=await _hear(call, attempts[-1], sending, None), attempts=attempts)
        pace = self._pace(task)
        if pace is None or granted.lease.key.run or not _hedgeable(attempts, task):
            # What is not told when it begins may come as a whole, and says nothing of how long others take to begin.
            began = None if pace is None else _unheard
            raced = Raced(heard=await _hear(call, attempts[-1], sending, began), attempts=attempts)
        else:
            raced = await self._hedged(granted, sending, task, call, pace, first=attempts[-1])
        reply = raced.heard.reply
        if pace is not None and reply is not None:
            latency_ms = reply.first_token_ms if reply.first_token_ms is not None else reply.duration_ms
            pace.heard(latency_ms / 1000, time.monotonic())
        return raced

    def _pace(self, task: Task) -> HedgePace | None:
        if task.route.hedge is None:
            return None
        key = (task.route.name, *(one.name for one in task.route.own.deployments))
        if key not in self._paces:
            self._paces[key] = HedgePace(task.route.hedge)
        return self._paces[key]

    async def _hedged(
        self, granted: Granted, sending: Sending, task: Task, call: SendCall, pace: HedgePace, *, first: AttemptRow
    ) -> Raced:
        calls = [_Open(call, first, sending)]
        try:
            pace.called()
            wait = pace.wait(time.monotonic())
            await asyncio.wait((calls[0].task, calls[0].began), timeout=wait.seconds, return_when=FIRST_COMPLETED)
            seat = None if calls[0].answers else self._seat(sending, task, pace)
            if seat is None:
                return Raced(heard=await calls[0].task, attempts=(first,))
            others: dict[str, Settled] = {}
            try:
                return await self._beside(granted, seat, task, call, calls, wait)
            except DependencyDownError:
                # Whether its row was committed is not known; it was not sent. The first call goes on alone.
                others = {granted.lease.key.attempt_id(first.ordinal + 1): _NOT_NEEDED}
            except FencedError:
                # What the first call brings is booked as late.
                pass
            finally:
                if len(calls) == 1:
                    self._pool.leave(seat, UNUSED)
            return Raced(heard=await calls[0].task, attempts=(first,), others=others)
        except BaseException:
            for one in calls[1:]:
                self._pool.leave(one.sending.seat)
            raise
        finally:
            for one in calls:
                await one.stop()

    def _seat(self, sending: Sending, task: Task, pace: HedgePace) -> Seat | None:
        """A seat for the second call, which is counted; ``None`` where it must not be sent."""
        refusal, seat, own = None, None, task.route.own
        if task.cancellation.requested or left_of(task, self._clock).s <= 0:
            refusal = "no_time"
        elif not pace.may_hedge:
            refusal = "over_share"
        else:
            here = sending.seat.member.name
            others = tuple(one for one in own.deployments if one.name != here)
            seat = self._places.at_once(replace(own, deployments=others or own.deployments), task.stored.record)
            if seat is None:
                refusal = "no_seat"
            elif not self._pool.may_retry(here):
                self._pool.leave(seat, UNUSED)
                seat, refusal = None, "no_retries"
        if refusal is not None:
            self._observer.on_hedge(task.route.name, refusal)
        else:
            pace.hedged()
        return seat

    async def _beside(
        self, granted: Granted, seat: Seat, task: Task, call: SendCall, calls: list[_Open], wait: Wait
    ) -> Raced:
        """Send the second call, and hear what comes first. Raises what ``next_attempt`` raises, with nothing sent."""
        (first,) = calls
        payload = first.sending.payload
        if seat.deployment.name != first.sending.deployment.name:
            payload = readdressed(payload, task.stored.record, seat.deployment)
        sending, since = Sending(seat, payload), time.monotonic()
        target = self._target(first.attempt.target, sending, task)
        row = await self._journal.next_attempt(granted.lease, target, beside=first.attempt.attempt_id)
        self._keeper.refreshed(granted.lease, since=since)
        if first.task.done() and first.task.result().decides:
            attempts = (close(row, _NOT_NEEDED, row.started_at), first.attempt)
            return Raced(heard=first.task.result(), attempts=attempts, others={row.attempt_id: _NOT_NEEDED})
        self._observer.on_hedge(task.route.name, "started")
        after_ms = (time.monotonic() - first.since) * 1000
        calls.append(_Open(call, row, sending))
        heard = await _first_of(calls)
        other = calls[0] if heard.attempt is row else calls[1]
        settled = self._lost(other, heard, task)
        self._observer.on_hedge(task.route.name, _outcome(heard, row))
        return Raced(
            heard=heard,
            attempts=(close(other.attempt, settled, other.attempt.started_at), heard.attempt),
            others={other.attempt.attempt_id: settled},
            hedge=Hedge(attempt=row.ordinal, won=heard.attempt.ordinal, after_ms=after_ms, samples=wait.samples),
        )

    def _target(self, before: Target, sending: Sending, task: Task) -> Target:
        sampling = task.stored.record.request.sampling
        offset, now = before.control_offset, self._clock.now()
        return target_of(before.route, sending.deployment, sending.payload, sampling, control_offset=offset, at=now)

    def _lost(self, other: _Open, decided: Heard, task: Task) -> Settled:
        """How the call is booked that did not decide; its seat is left."""
        seat, heard, row = other.sending.seat, other.heard, other.attempt
        if heard is None:
            pace, alone_s = self._pace(task), (other.began_at or time.monotonic()) - other.since
            if pace is not None and decided.reply is not None:
                # It would have taken longer than that. Without it the route would seem quicker than it is.
                pace.heard(alone_s, time.monotonic())
            self._pool.leave(seat)
            code = CANCELLED.code if isinstance(decided.error, RefusedError) else HEDGE_LOST
            return unknown(row, error_code=code, duration_ms=(time.monotonic() - other.since) * 1000)
        if heard.reply is not None:
            settled = done(heard.reply, other.sending, task, at=self._clock.now())
            self._pool.leave(seat, answered(heard.reply, settled.usage))
            return replace(settled, state="failed", error_class="policy", error_code=HEDGE_LOST)
        if isinstance(heard.error, ProviderError):
            self._pool.leave(seat, ended_with(heard.error))
            return failed(heard.error, row, duration_ms=heard.duration_ms)
        self._pool.leave(seat)
        return unknown(row, error_code=CANCELLED.code, duration_ms=heard.duration_ms)


class _Open:
    """A call that was sent."""

    def __init__(self, call: SendCall, attempt: AttemptRow, sending: Sending) -> None:
        self.attempt, self.sending, self.since = attempt, sending, time.monotonic()
        self.began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began_at: float | None = None
        self.task = asyncio.create_task(_hear(call, attempt, sending, self._tell), name="call")

    @property
    def answers(self) -> bool:
        """Whether it has begun to, or has ended."""
        return self.task.done() or self.began.done()

    @property
    def heard(self) -> Heard | None:
        """How it ended; ``None`` where it was stopped."""
        return self.task.result() if self.task.done() and not self.task.cancelled() else None

    async def stop(self) -> None:
        """Close it, if it is open."""
        self.began.cancel()
        if not self.task.done():
            self.task.cancel()
            await asyncio.wait((self.task,))

    def _tell(self) -> None:
        self.began_at = time.monotonic()
        if not self.began.done():
            self.began.set_result(None)


def _hedgeable(attempts: tuple[AttemptRow, ...], task: Task) -> bool:
    """Whether a second call may be sent at all: beside the call's first attempt, and where no text is shown meanwhile.

    Rows tell of both, so a call is hedged once at most, whatever crashes; and the second is one of the attempts that
    the route allows, and that the call's budgets hold.
    """
    return len(attempts) == 1 and not task.streamed and tries(attempts) < task.route.max_attempts


def _unheard() -> None:
    """Nothing waits for it."""


async def _hear(call: SendCall, attempt: AttemptRow, sending: Sending, began: Began | None) -> Heard:
    since = time.monotonic()
    reply, error = None, None
    try:
        reply = await call(attempt, sending, began)
    except (ProviderError, RefusedError) as caught:
        error = caught
    duration_ms = (time.monotonic() - since) * 1000
    return Heard(attempt=attempt, sending=sending, duration_ms=duration_ms, reply=reply, error=error)


async def _first_of(calls: list[_Open]) -> Heard:
    """What decides: the first reply, else the last error. The other call is over when this returns."""
    pending = {one.task for one in calls}
    while True:
        finished, pending = await asyncio.wait(pending, return_when=FIRST_COMPLETED)
        heard = [one.task.result() for one in calls if one.task in finished]
        decided = next((one for one in heard if one.decides), None)
        if decided is not None or not pending:
            break
    for one in calls:
        await one.stop()
    return decided or heard[-1]


def _outcome(heard: Heard, second: AttemptRow) -> str:
    if heard.reply is None:
        return "failed" if isinstance(heard.error, ProviderError) else "cancelled"
    return "won" if heard.attempt is second else "lost"
