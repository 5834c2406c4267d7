"""Makes one attempt of a call, and says how it is booked and what follows it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from urllib.parse import quote

from processors.clock import Clock
from processors.complete.ending import Endings
from processors.complete.hedging import Hedging, Raced
from processors.complete.judging import AskAgain, Refuse
from processors.complete.live import LiveDeltas
from processors.complete.observer import CallObserver
from processors.complete.payload import Payload
from processors.complete.retry import (
    CONTENT_REFUSED,
    Backoff,
    Go,
    Limits,
    Verdict,
    after_break,
    after_error,
    failure_of,
    fallback,
)
from processors.complete.routes import Group
from processors.complete.settling import NOT_SENT, answered, done, failed
from processors.complete.task import Again, Sending, Task
from processors.complete.timing import deadline_of, left_of
from processors.complete.unwritten import Outcome
from processors.failpoints import Failpoints
from processors.journal import AttemptRow, CallFailure, Granted, LeaseKeeper
from processors.journal.protocol import CANCELLED, EXPIRED, unknown
from processors.model.port import Began, ModelClient, ModelReply
from processors.release.window import cleared
from processors.routing import Pool
from processors.routing.causes import ended_with
from schemas.errors import ProviderError, TransientProviderError, UnencodableError


class Attempting:
    """Makes attempts, one at a time for each call. One for each worker."""

    def __init__(
        self,
        client: ModelClient,
        *,
        pool: Pool,
        keeper: LeaseKeeper,
        endings: Endings,
        hedging: Hedging,
        clock: Clock,
        observer: CallObserver,
        failpoints: Failpoints,
        backoff: Backoff,
        random_: random.Random,
    ) -> None:
        self._client, self._pool, self._keeper, self._endings = client, pool, keeper, endings
        self._hedging = hedging
        self._clock, self._observer, self._failpoints = clock, observer, failpoints
        self._backoff, self._random = backoff, random_

    async def make(
        self,
        granted: Granted,
        attempts: tuple[AttemptRow, ...],
        sending: Sending,
        task: Task,
        live: LiveDeltas | None,
    ) -> tuple[Outcome, Again | None]:
        """One call; what to book, and what to try next, if anything.

        The last of ``attempts`` is the open one, beside which another one may be sent. Blocks for the call. Leaves the
        seat when the call has ended, and not when it was never sent.
        """
        if task.cancellation.requested:
            outcome = Outcome(lease=granted.lease, attempt_id=attempts[-1].attempt_id)
            return replace(outcome, settled=NOT_SENT, failure=CANCELLED), None

        def call(attempt: AttemptRow, sending: Sending, began: Began | None) -> Awaitable[ModelReply]:
            return self._call(granted, attempt, sending, task, live, began)

        raced = await self._hedging.run(granted, attempts, sending, task, call)
        outcome = Outcome(lease=granted.lease, attempt_id=raced.heard.attempt.attempt_id, others=raced.others)
        try:
            if raced.heard.reply is None:
                return self._unanswered(outcome, raced, task, live)
            return await self._answered(outcome, raced, raced.heard.reply, task, live)
        finally:
            self._pool.leave(raced.heard.sending.seat)

    def _unanswered(
        self, outcome: Outcome, raced: Raced, task: Task, live: LiveDeltas | None
    ) -> tuple[Outcome, Again | None]:
        """What to book of a call that brought no reply, and what to try next, if anything."""
        heard, attempts = raced.heard, raced.attempts
        attempt, error = heard.attempt, heard.error
        if not isinstance(error, ProviderError):
            settled = unknown(attempt, error_code=CANCELLED.code, duration_ms=heard.duration_ms)
            return replace(outcome, settled=settled, failure=CANCELLED), None
        self._pool.leave(heard.sending.seat, ended_with(error))
        settled = failed(error, attempt, duration_ms=heard.duration_ms)
        outcome = replace(outcome, settled=settled)
        known = (*attempts[:-1], replace(attempt, state=settled.state, error_code=settled.error_code))
        verdict = self._after(error, known, task)
        if live is not None and cleared(live.given) > 0:
            verdict = after_break(error, verdict, task.route)
        if isinstance(verdict, CallFailure):
            return self._endings.ended(outcome, verdict, attempts, task), None
        self._observer.on_retry(attempt.target.deployment, error.code)
        return outcome, Again(verdict, heard.sending.payload, failure_of(error))

    async def _answered(
        self, outcome: Outcome, raced: Raced, reply: ModelReply, task: Task, live: LiveDeltas | None
    ) -> tuple[Outcome, Again | None]:
        """What to book of a call that brought this reply, and what to ask for instead, if anything."""
        attempts, sending = raced.attempts, raced.heard.sending
        self._failpoints.hit("after_reply")
        settled = done(reply, sending, task, at=self._clock.now())
        self._pool.leave(sending.seat, answered(reply, settled.usage))
        judgement = task.judge(reply, attempts)
        if task.checks is not None:
            left_s = left_of(task, self._clock).s
            stronger = await task.checks.escalation(reply, judgement, attempts, settled, left_s=left_s)
            if stronger is not None:
                kept = replace(outcome, settled=settled, keep=task.checks.kept(attempts[-1]))
                return self._elsewhere(kept, *stronger, sending, task)
        elsewhere = self._held_back(reply, attempts, task, live)
        if elsewhere is not None:
            return self._elsewhere(replace(outcome, settled=settled), elsewhere, CONTENT_REFUSED, sending, task)
        if isinstance(judgement, AskAgain | Refuse):
            return self._wrong(replace(outcome, settled=settled), judgement, attempts, sending, task)
        try:
            result = task.encode(judgement.reply, attempts, settled, hedge=raced.hedge)
            return replace(outcome, settled=settled, result=result), None
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
        if (public and task.route.on_break == "failed") or left_of(task, self._clock).s <= 0:
            return None
        return fallback(task.route, "content_refused", attempts)

    def _elsewhere(
        self, outcome: Outcome, go: Go, failure: CallFailure, sending: Sending, task: Task
    ) -> tuple[Outcome, Again]:
        """Book a reply that is not good enough, which is paid, and ask elsewhere, as at first."""
        assert outcome.settled is not None
        settled = replace(outcome.settled, state="failed", error_class=failure.error_class, error_code=failure.code)
        self._observer.on_retry(sending.deployment.name, failure.code)
        return replace(outcome, settled=settled), Again(go, task.payload, failure)

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
        outcome, left = replace(outcome, settled=settled), left_of(task, self._clock)
        if isinstance(judgement, AskAgain):
            # Whoever wrote it is asked, with what was wrong.
            go: Go | None = Go(group=Group(deployments=(sending.seat.member.deployment,)))
            payload: Payload = judgement.payload
        else:
            go, payload = fallback(task.route, "malformed_output", attempts), task.payload
        if go is None or left.s <= 0:
            return self._endings.ended(outcome, EXPIRED if asking and left.expired else failure, attempts, task), None
        self._observer.on_retry(sending.deployment.name, failure.code)
        return outcome, Again(go, payload, failure)

    async def _call(
        self,
        granted: Granted,
        attempt: AttemptRow,
        sending: Sending,
        task: Task,
        live: LiveDeltas | None,
        began: Began | None,
    ) -> ModelReply:
        """Send the call. Raises ``RefusedError`` when the request is cancelled while the call is open."""
        deployment, payload = sending.deployment, sending.payload
        if not await self._keeper.regains(granted.lease):
            # Paused since the row was committed, and another worker may have the call by now. Nothing was sent.
            raise TransientProviderError("lease_lost", "the worker was paused before the call was sent")
        deadline_s = deadline_of(deployment, task)
        # Ids only: they let a provider's support, and whoever audits its log, find the call.
        headers = {
            "X-Client-Request-Id": attempt.attempt_id,
            "X-Request-Id": quote(granted.lease.key.request_id, safe="-_.~")[:512],
        }
        self._failpoints.hit("before_call")
        heard = None if live is None else live.hear
        async with task.cancellation.scope():
            return await self._client.chat(
                deployment, payload, deadline_s=deadline_s, headers=headers, heard=heard, began=began
            )

    def _after(self, error: ProviderError, attempts: tuple[AttemptRow, ...], task: Task) -> Verdict:
        left = left_of(task, self._clock)
        if left.expired and error.retryable:
            return EXPIRED
        verdict = after_error(
            error,
            attempts,
            task.route,
            backoff=self._backoff,
            random_=self._random,
            limits=Limits(
                left_s=left.s, ttl_left_s=left.ttl_s, may_retry=self._pool.may_retry, usable=self._pool.usable
            ),
        )
        return verdict if task.checks is None else task.checks.after_error(error, verdict, attempts)
