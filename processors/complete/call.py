"""Makes one call that the journal granted: attempts, retries and their booking."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from urllib.parse import quote

from processors.clock import Clock
from processors.complete.cancellation import Cancellation
from processors.complete.deltas import DeltaSink, aborted_delta, live_delta
from processors.complete.judging import AskAgain, Judge, Refuse, accept_all
from processors.complete.live import LiveDeltas, Pace
from processors.complete.observer import CallObserver
from processors.complete.payload import Payload, token_limit
from processors.complete.pricing import upper_bound, usage_of
from processors.complete.retry import Backoff, RetryIn, after_break, after_error
from processors.complete.routes import Route
from processors.complete.unwritten import Outcome, Unwritten
from processors.event import Incoming
from processors.failpoints import Failpoints
from processors.journal import AttemptRow, CallFailure, Granted, Journal, Lease, LeaseKeeper, Settled, Target
from processors.journal.protocol import CANCELLED, EXPIRED, bound_usage, unknown
from processors.model.port import ModelClient, ModelReply
from processors.release.window import cleared
from schemas.errors import (
    DependencyDownError,
    OutcomeUnknownError,
    ProviderError,
    RefusedError,
    TransientProviderError,
    UnencodableError,
)
from schemas.records import Delta, Enrichment

# A call is not begun with less time than this: it would only be paid and cut off.
SHORTEST_CALL_S = 1.0

# How an attempt is booked whose request was cancelled before it was sent.
_NOT_SENT = Settled(
    state="failed", cost_usd=Decimal(0), error_class=CANCELLED.error_class, error_code=CANCELLED.code, duration_ms=0.0
)

# Encodes the event that a reply becomes, given the attempts with the open one at the end.
Encode = Callable[[ModelReply, tuple[AttemptRow, ...], Settled], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a granted call needs besides the grant. ``ends`` is the monotonic end of the stage's attempt.

    ``stored`` is the event as the journal has it; ``streamed``: its text goes to ``deltas`` too. ``payload`` is what
    the first attempt sends; ``judge`` says what becomes of each reply.
    """

    route: Route
    payload: Payload
    stored: Incoming[Enrichment]
    streamed: bool
    cancellation: Cancellation
    ends: float
    encode: Encode
    judge: Judge = field(default=accept_all)


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt follows after so long, with this payload."""

    seconds: float
    payload: Payload


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
    ) -> None:
        self._sink, self._pace = sink, pace
        self._journal = journal
        self._client = client
        self._keeper = keeper
        self._unwritten = unwritten
        self._clock = clock
        self._observer = observer
        self._failpoints = failpoints
        self._backoff = backoff
        self._random = random_

    async def run(self, granted: Granted, task: Task, *, since: float) -> None:
        """Call until the journal holds a result or a failure.

        Blocks for the call and its retries, until ``task.ends`` at most, and for the acknowledgement of live deltas. A
        request that is cancelled meanwhile ends with ``CANCELLED`` in the journal. Raises ``FencedError`` when a later
        owner took the call, and ``DependencyDownError`` when an outcome could not be booked; it is then kept, and
        booked before anything else is done with the call.
        """
        with self._keeper.holding(granted.lease, since=since):
            self._failpoints.hit("after_claim")
            attempts, payload = (*granted.earlier, granted.attempt), task.payload
            if granted.earlier and task.streamed:
                # Its worker is gone, perhaps before it could say so.
                await self._abort(granted.earlier[-1], task)
            while True:
                async with self._streaming(granted.lease, attempts[-1], task) as live:
                    outcome, again = await self._attempt(granted, attempts, payload, task, live)
                    attempts = await self._unwritten.book(outcome)
                    self._count(outcome, attempts[-1])
                if again is None:
                    return
                if live is not None and live.given and not live.lost:
                    await self._abort(attempts[-1], task)
                try:
                    async with task.cancellation.scope():
                        await asyncio.sleep(again.seconds)
                except RefusedError:
                    await self._journal.end(granted.lease, CANCELLED)
                    return
                since = time.monotonic()
                payload = again.payload
                target = self._target(attempts[-1].target, payload, task)
                attempt = await self._journal.next_attempt(granted.lease, target)
                self._keeper.refreshed(granted.lease, since=since)
                attempts = (*attempts, attempt)

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
        payload: Payload,
        task: Task,
        live: LiveDeltas | None,
    ) -> tuple[Outcome, Again | None]:
        """One call; what to book, and what to try next, if anything."""
        attempt, began = attempts[-1], time.monotonic()
        outcome = Outcome(lease=granted.lease, attempt_id=attempt.attempt_id)
        if task.cancellation.requested:
            return replace(outcome, settled=_NOT_SENT, failure=CANCELLED), None
        try:
            reply = await self._call(granted, attempt, payload, task, live)
        except RefusedError:
            settled = unknown(attempt, error_code=CANCELLED.code, duration_ms=(time.monotonic() - began) * 1000)
            return replace(outcome, settled=settled, failure=CANCELLED), None
        except ProviderError as error:
            settled = _failed(error, attempt, duration_ms=(time.monotonic() - began) * 1000)
            known = (*attempts[:-1], replace(attempt, state=settled.state))
            verdict = self._after(error, known, task)
            if live is not None and cleared(live.given) > 0:
                verdict = after_break(error, verdict, task.route)
            if isinstance(verdict, RetryIn):
                self._observer.on_retry(attempt.target.deployment, error.code)
                return replace(outcome, settled=settled), Again(verdict.seconds, payload)
            return replace(outcome, settled=settled, failure=verdict), None
        self._failpoints.hit("after_reply")
        settled = self._done(reply, payload, task)
        judgement = task.judge(reply, attempts)
        if isinstance(judgement, AskAgain | Refuse):
            return self._wrong(replace(outcome, settled=settled), judgement, attempt, task)
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

    def _wrong(
        self, outcome: Outcome, judgement: AskAgain | Refuse, attempt: AttemptRow, task: Task
    ) -> tuple[Outcome, Again | None]:
        """Book a reply that was judged wrong, which is paid, and ask again where that is wanted and there is time."""
        assert outcome.settled is not None
        failure = judgement.otherwise if isinstance(judgement, AskAgain) else judgement.failure
        settled = replace(outcome.settled, state="failed", error_class=failure.error_class, error_code=failure.code)
        outcome, (left_s, expired) = replace(outcome, settled=settled), self._left(task)
        if isinstance(judgement, Refuse) or left_s <= 0:
            return replace(outcome, failure=EXPIRED if isinstance(judgement, AskAgain) and expired else failure), None
        self._observer.on_retry(attempt.target.deployment, failure.code)
        return outcome, Again(0.0, judgement.payload)

    def _left(self, task: Task) -> tuple[float, bool]:
        """How long another attempt may be waited for, in seconds, and whether the request's ttl is over."""
        left_s = task.ends - time.monotonic() - SHORTEST_CALL_S
        expires_at = task.stored.record.admission.expires_at
        if expires_at is None:
            return left_s, False
        ttl_left_s = (expires_at - self._clock.now()).total_seconds()
        return min(left_s, ttl_left_s), ttl_left_s <= 0

    def _target(self, before: Target, payload: Payload, task: Task) -> Target:
        """Where the next attempt goes, at the bound of what it sends."""
        if payload is task.payload:
            return before
        limit = token_limit(task.stored.record.request.sampling, task.route.deployment)
        return replace(before, bound=upper_bound(payload, task.route.deployment, limit, at=self._clock.now()))

    async def _call(
        self, granted: Granted, attempt: AttemptRow, payload: Payload, task: Task, live: LiveDeltas | None
    ) -> ModelReply:
        """Send the call. Raises ``RefusedError`` when the request is cancelled while the call is open."""
        deployment = task.route.deployment
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

    def _after(self, error: ProviderError, attempts: tuple[AttemptRow, ...], task: Task) -> RetryIn | CallFailure:
        left_s, expired = self._left(task)
        if expired and error.retryable:
            return EXPIRED
        return after_error(error, attempts, task.route, backoff=self._backoff, random_=self._random, left_s=left_s)

    def _done(self, reply: ModelReply, payload: Payload, task: Task) -> Settled:
        deployment = task.route.deployment
        # The estimate is that of the first payload.
        estimate = task.stored.record.grounding.prompt_tokens_estimate if payload is task.payload else 0
        usage = usage_of(reply, payload, deployment, prompt_estimate=estimate)
        return Settled(
            state="done",
            cost_usd=deployment.price.amount(usage, self._clock.now()),
            usage=usage,
            estimated=usage.estimated,
            http_status=200,
            response_id=reply.response_id,
            duration_ms=reply.duration_ms,
            first_token_ms=reply.first_token_ms,
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


def _failed(error: ProviderError, attempt: AttemptRow, *, duration_ms: float) -> Settled:
    """How a failed attempt is booked: at nothing when it was refused, at its bound when it may have been paid."""
    if isinstance(error, OutcomeUnknownError):
        return unknown(attempt, error_code=error.code, duration_ms=duration_ms)
    # A body came with 200, though none that can be used: it may well be on the bill.
    maybe_paid = error.http_status == 200
    return Settled(
        state="failed",
        cost_usd=attempt.target.bound.usd if maybe_paid else Decimal(0),
        usage=bound_usage(attempt) if maybe_paid else None,
        estimated=maybe_paid,
        upper_bound=maybe_paid,
        error_class=error.error_class,
        error_code=error.code,
        http_status=error.http_status,
        duration_ms=duration_ms,
    )
