"""Makes one call that the journal granted: attempts, retries and their booking."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import quote

from processors.clock import Clock
from processors.complete.deltas import DeltaSink, aborted_delta, live_delta
from processors.complete.judging import AskAgain, Refuse
from processors.complete.live import LiveDeltas, Pace
from processors.complete.observer import CallObserver
from processors.complete.payload import Payload
from processors.complete.places import Places
from processors.complete.retry import (
    CONTENT_REFUSED,
    STREAM_BROKEN,
    Backoff,
    Go,
    Later,
    Limits,
    Verdict,
    after_break,
    after_error,
    failure_of,
    fallback,
    nowhere,
)
from processors.complete.routes import Group
from processors.complete.settling import NOT_SENT, answered, done, failed
from processors.complete.target import readdressed, target_of
from processors.complete.task import Again, Left, Sending, Task
from processors.complete.unresolved import Settler
from processors.complete.unwritten import Outcome, Unwritten
from processors.failpoints import Failpoints
from processors.journal import AttemptRow, CallFailure, Granted, Journal, Lease, LeaseKeeper, Target
from processors.journal.protocol import CANCELLED, EXPIRED, unknown
from processors.model.port import ModelClient, ModelReply
from processors.release.window import cleared
from processors.routing import Seat, Unavailable
from processors.routing.causes import ended_with
from schemas.errors import (
    DependencyDownError,
    ProviderError,
    RefusedError,
    TransientProviderError,
    UnencodableError,
)
from schemas.records import Delta

# A call is not begun with less time than this: it would only be paid and cut off.
SHORTEST_CALL_S = 1.0


# Nobody waits for an answer any more, or half of one is public.
_NO_RESORT = frozenset({CANCELLED.code, STREAM_BROKEN.code})


class Caller:
    """Makes granted calls. One for each worker."""

    def __init__(
        self,
        journal: Journal,
        client: ModelClient,
        *,
        keeper: LeaseKeeper,
        unwritten: Unwritten,
        clock: Clock,
        observer: CallObserver,
        failpoints: Failpoints,
        backoff: Backoff,
        random_: random.Random,
        sink: DeltaSink | None,
        pace: Pace,
        places: Places,
        settler: Settler,
    ) -> None:
        self._sink, self._pace, self._places, self._pool = sink, pace, places, places.pool
        self._journal, self._settler = journal, settler
        self._client = client
        self._keeper = keeper
        self._unwritten = unwritten
        self._clock = clock
        self._observer = observer
        self._failpoints = failpoints
        self._backoff = backoff
        self._random = random_

    async def run(self, granted: Granted, task: Task, *, since: float) -> None:
        """Call until the journal holds a result or a failure. Leaves ``task.seat``, whatever happens.

        Blocks for the call and its retries, until ``task.ends`` at most, and for the acknowledgement of live deltas. A
        request that is cancelled meanwhile ends with ``CANCELLED`` in the journal. Raises ``FencedError`` when a later
        owner took the call, ``NotYetError`` when the next attempt has to wait for longer than a slot may be kept, and
        ``DependencyDownError`` when an outcome could not be booked; it is then kept, and booked before anything else
        is done with the call.
        """
        assert task.seat is not None
        sending = Sending(task.seat, task.payload)
        try:
            with self._keeper.holding(granted.lease, since=since):
                self._failpoints.hit("after_claim")
                attempts = (*granted.earlier, granted.attempt)
                if granted.earlier and task.streamed:
                    # Its worker is gone, perhaps before it could say so.
                    await self._abort(granted.earlier[-1], task)
                while True:
                    if task.route.unknown_policy == "reconcile":
                        until = task.ends - SHORTEST_CALL_S
                        resolved = await self._settler.resolve(granted.lease, attempts, task, until=until)
                        if resolved is None:
                            return
                        attempts = resolved
                    async with self._streaming(granted.lease, attempts[-1], task) as live:
                        outcome, again = await self._attempt(granted, attempts, sending, task, live)
                        attempts = await self._unwritten.book(outcome)
                        self._count(outcome, attempts[-1])
                    if again is None:
                        return
                    if live is not None and live.given and not live.lost:
                        await self._abort(attempts[-1], task)
                    seat = await self._next(granted.lease, attempts, again, task)
                    if seat is None:
                        return
                    sending = Sending(seat, self._payload(again.payload, sending, seat, task))
                    since = time.monotonic()
                    attempt = await self._journal.next_attempt(granted.lease, self._target(attempts, sending, task))
                    self._keeper.refreshed(granted.lease, since=since)
                    attempts = (*attempts, attempt)
        finally:
            self._pool.leave(sending.seat)

    async def unsent(self, granted: Granted, task: Task, code: str, *, since: float) -> None:
        """End a call that can be sent nowhere: by the route's last resort, or as failed. Raises as ``run`` does."""
        with self._keeper.holding(granted.lease, since=since):
            outcome = Outcome(lease=granted.lease, attempt_id=granted.attempt.attempt_id)
            failure = nowhere(task.route, code)
            settled = replace(NOT_SENT, error_class=failure.error_class, error_code=failure.code)
            attempts = (*granted.earlier, granted.attempt)
            await self._unwritten.book(self._ended(replace(outcome, settled=settled), failure, attempts, task))

    async def _next(self, lease: Lease, attempts: tuple[AttemptRow, ...], again: Again, task: Task) -> Seat | None:
        """A seat for the next attempt; ``None`` where the call ended instead. Raises as ``run`` does."""
        try:
            found = await self._find(attempts, again.go, task)
        except RefusedError:
            await self._journal.end(lease, CANCELLED)
            return None
        if isinstance(found, Seat):
            return found
        if task.resort is None and not found.denied and found.wait_s < self._left(task).ttl_s:
            raise self._places.set_aside(found)
        await self._resort(lease, attempts, again.otherwise, task)
        return None

    async def _find(self, attempts: tuple[AttemptRow, ...], go: Go | Later, task: Task) -> Seat | Unavailable:
        if isinstance(go, Later):
            return Unavailable(go.seconds, "outage", go.deployment)
        async with task.cancellation.scope():
            await asyncio.sleep(go.seconds)
        latest = task.ends - SHORTEST_CALL_S
        found = await self._places.find(
            task.route, go, task.stored.record, attempts=attempts, cancellation=task.cancellation, latest=latest
        )
        if isinstance(found, Seat) and go.cause is not None:
            self._pool.observer.on_fallback(task.route.name, go.cause)
        return found

    async def _resort(self, lease: Lease, attempts: tuple[AttemptRow, ...], failure: CallFailure, task: Task) -> None:
        """End a call whose attempts are all booked, with the last resort where there is one."""
        if task.resort is None or failure.code in _NO_RESORT:
            await self._journal.end(lease, failure)
            return
        attempt = await self._journal.next_attempt(lease, attempts[-1].target)
        settled = replace(NOT_SENT, error_class=failure.error_class, error_code=failure.code)
        outcome = Outcome(lease=lease, attempt_id=attempt.attempt_id, settled=settled)
        await self._unwritten.book(self._ended(outcome, failure, (*attempts, attempt), task))

    def _ended(self, outcome: Outcome, failure: CallFailure, attempts: tuple[AttemptRow, ...], task: Task) -> Outcome:
        """The outcome of a call's last attempt: answered by the last resort where there is one, else failed."""
        if task.resort is None or failure.kind != "failed" or failure.code in _NO_RESORT:
            return replace(outcome, failure=failure)
        assert outcome.settled is not None
        self._pool.observer.on_last_resort(task.route.name)
        return replace(outcome, result=task.resort(attempts, outcome.settled, failure.code))

    @asynccontextmanager
    async def _streaming(self, lease: Lease, attempt: AttemptRow, task: Task) -> AsyncIterator[LiveDeltas | None]:
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

    async def _abort(self, attempt: AttemptRow, task: Task) -> None:
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

    async def _attempt(
        self,
        granted: Granted,
        attempts: tuple[AttemptRow, ...],
        sending: Sending,
        task: Task,
        live: LiveDeltas | None,
    ) -> tuple[Outcome, Again | None]:
        """One call; what to book, and what to try next, if anything."""
        attempt, began = attempts[-1], time.monotonic()
        outcome = Outcome(lease=granted.lease, attempt_id=attempt.attempt_id)
        if task.cancellation.requested:
            return replace(outcome, settled=NOT_SENT, failure=CANCELLED), None
        try:
            reply = await self._call(granted, attempt, sending, task, live)
        except RefusedError:
            settled = unknown(attempt, error_code=CANCELLED.code, duration_ms=(time.monotonic() - began) * 1000)
            return replace(outcome, settled=settled, failure=CANCELLED), None
        except ProviderError as error:
            self._pool.leave(sending.seat, ended_with(error))
            settled = failed(error, attempt, duration_ms=(time.monotonic() - began) * 1000)
            outcome = replace(outcome, settled=settled)
            known = (*attempts[:-1], replace(attempt, state=settled.state, error_code=settled.error_code))
            verdict = self._after(error, known, task)
            if live is not None and cleared(live.given) > 0:
                verdict = after_break(error, verdict, task.route)
            if isinstance(verdict, CallFailure):
                return self._ended(outcome, verdict, attempts, task), None
            self._observer.on_retry(attempt.target.deployment, error.code)
            return outcome, Again(verdict, sending.payload, failure_of(error))
        self._failpoints.hit("after_reply")
        settled = done(reply, sending, task, at=self._clock.now())
        self._pool.leave(sending.seat, answered(reply, settled.usage))
        elsewhere = self._held_back(reply, attempts, task, live)
        if elsewhere is not None:
            return self._refused(replace(outcome, settled=settled), elsewhere, sending)
        judgement = task.judge(reply, attempts)
        if isinstance(judgement, AskAgain | Refuse):
            return self._wrong(replace(outcome, settled=settled), judgement, attempts, sending, task)
        try:
            return replace(outcome, settled=settled, result=task.encode(judgement.reply, attempts, settled)), None
        except UnencodableError as error:
            # Paid, and the next reply would be no better: better said than bought again until the attempts are over.
            failure = CallFailure(
                kind="failed", code="unrecordable_response", error_class=error.error_class, message=str(error)
            )
            unrecordable = replace(
                settled, state="failed", error_class=error.error_class, error_code="unrecordable_response"
            )
            return replace(outcome, settled=unrecordable, failure=failure), None

    def _held_back(
        self, reply: ModelReply, attempts: Sequence[AttemptRow], task: Task, live: LiveDeltas | None
    ) -> Go | None:
        """Where else to ask when the model declined or its provider withheld the reply; ``None`` to let it stand."""
        if reply.refusal is None and reply.finish_reason != "content_filter":
            return None
        public = live is not None and cleared(live.given) > 0
        if (public and task.route.on_break == "failed") or self._left(task).s <= 0:
            return None
        return fallback(task.route, "content_refused", attempts)

    def _refused(self, outcome: Outcome, go: Go, sending: Sending) -> tuple[Outcome, Again]:
        """Book a reply that says nothing, which is paid, and ask elsewhere."""
        assert outcome.settled is not None
        settled = replace(
            outcome.settled, state="failed", error_class=CONTENT_REFUSED.error_class, error_code=CONTENT_REFUSED.code
        )
        self._observer.on_retry(sending.deployment.name, CONTENT_REFUSED.code)
        return replace(outcome, settled=settled), Again(go, sending.payload, CONTENT_REFUSED)

    def _wrong(
        self,
        outcome: Outcome,
        judgement: AskAgain | Refuse,
        attempts: tuple[AttemptRow, ...],
        sending: Sending,
        task: Task,
    ) -> tuple[Outcome, Again | None]:
        """Book a reply that was judged wrong, which is paid, and ask again where that is wanted and there is time."""
        assert outcome.settled is not None
        asking = isinstance(judgement, AskAgain)
        failure = judgement.otherwise if isinstance(judgement, AskAgain) else judgement.failure
        settled = replace(outcome.settled, state="failed", error_class=failure.error_class, error_code=failure.code)
        outcome, left = replace(outcome, settled=settled), self._left(task)
        if isinstance(judgement, AskAgain):
            # Whoever wrote it is asked, with what was wrong.
            go: Go | None = Go(group=Group(deployments=(sending.seat.member.deployment,)))
            payload: Payload = judgement.payload
        else:
            go, payload = fallback(task.route, "malformed_output", attempts), task.payload
        if go is None or left.s <= 0:
            return self._ended(outcome, EXPIRED if asking and left.expired else failure, attempts, task), None
        self._observer.on_retry(sending.deployment.name, failure.code)
        return outcome, Again(go, payload, failure)

    def _left(self, task: Task) -> Left:
        """How long another attempt may be waited for."""
        left_s = task.ends - time.monotonic() - SHORTEST_CALL_S
        expires_at = task.stored.record.admission.expires_at
        ttl_s = math.inf if expires_at is None else (expires_at - self._clock.now()).total_seconds()
        return Left(min(left_s, ttl_s), ttl_s)

    def _payload(self, payload: Payload, before: Sending, seat: Seat, task: Task) -> Payload:
        """What is sent at the seat. A judge's payload may be made of one for another deployment."""
        if payload is before.payload and before.deployment.name == seat.deployment.name:
            return payload
        return readdressed(payload, task.stored.record, seat.deployment)

    def _target(self, attempts: Sequence[AttemptRow], sending: Sending, task: Task) -> Target:
        """Where the next attempt goes, at the bound of what it sends."""
        last = attempts[-1].target
        return target_of(
            last.route,
            sending.deployment,
            sending.payload,
            task.stored.record.request.sampling,
            control_offset=last.control_offset,
            at=self._clock.now(),
        )

    async def _call(
        self, granted: Granted, attempt: AttemptRow, sending: Sending, task: Task, live: LiveDeltas | None
    ) -> ModelReply:
        """Send the call. Raises ``RefusedError`` when the request is cancelled while the call is open."""
        deployment, payload = sending.deployment, sending.payload
        if not self._keeper.trusts(granted.lease):
            # Paused since the row was committed: another worker may have the call by now. Nothing was sent.
            raise TransientProviderError("lease_lost", "the worker was paused before the call was sent")
        deadline_s = min(deployment.total_timeout_s, task.ends - time.monotonic())
        if deadline_s < min(SHORTEST_CALL_S, deployment.total_timeout_s):
            raise TransientProviderError("no_time_left", "the stage's attempt ended before the call could be sent")
        # Ids only: they let a provider's support, and whoever audits its log, find the call.
        headers = {
            "X-Client-Request-Id": attempt.attempt_id,
            "X-Request-Id": quote(granted.lease.key.request_id, safe="-_.~")[:512],
        }
        self._failpoints.hit("before_call")
        heard = None if live is None else live.hear
        async with task.cancellation.scope():
            return await self._client.chat(deployment, payload, deadline_s=deadline_s, headers=headers, heard=heard)

    def _after(self, error: ProviderError, attempts: tuple[AttemptRow, ...], task: Task) -> Verdict:
        left = self._left(task)
        if left.expired and error.retryable:
            return EXPIRED
        return after_error(
            error,
            attempts,
            task.route,
            backoff=self._backoff,
            random_=self._random,
            limits=Limits(
                left_s=left.s, ttl_left_s=left.ttl_s, may_retry=self._pool.may_retry, usable=self._pool.usable
            ),
        )

    def _count(self, outcome: Outcome, attempt: AttemptRow) -> None:
        settled, deployment = outcome.settled, attempt.target.deployment
        assert settled is not None
        if outcome.result is not None:
            self._failpoints.hit("after_finish")
        self._observer.on_call(deployment, settled.error_code or "done", (settled.duration_ms or 0.0) / 1000)
        self._observer.on_cost(deployment, settled.cost_usd)
        if settled.state == "unknown":
            self._observer.on_unknown(deployment, settled.error_code or "unknown")
        if settled.first_token_ms is not None:
            self._observer.on_first_token(deployment, settled.first_token_ms / 1000)
        if settled.usage is not None:
            self._observer.on_tokens(deployment, settled.usage)
