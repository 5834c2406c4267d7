"""Several calls for one request, and the one completion that is made of them.

Each is a call of the journal of its own, under the request's key with the purpose ``sample`` and its number: it has its
own lease, attempts, retries and costs, and after a crash only those are made that have not ended. What is made of them
is the result of the request's own call, which is booked without an attempt; a failure is booked with one that was sent
nowhere. A sample's completion is kept in the journal alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from processors.complete.aggregate import Reply, aggregate
from processors.complete.call import Caller
from processors.complete.policies import FanOutPolicy
from processors.complete.records import attempt_of
from processors.complete.routes import Route
from processors.complete.samples import Sample, attempts_of, completion_of_samples, record_of_samples
from processors.complete.task import Resort, Task
from processors.complete.tasks import Tasks, sample_key
from processors.evaluate.replies import ReplyScorer
from processors.event import Incoming
from processors.failpoints import Failpoints
from processors.journal import (
    AttemptRow,
    Bound,
    Busy,
    CallFailure,
    CallKey,
    Done,
    Ended,
    Expired,
    Granted,
    Journal,
    Offer,
    Settled,
)
from processors.journal.protocol import CANCELLED, EXPIRED
from schemas.codec import Codec
from schemas.errors import DependencyDownError, FencedError, NotYetError, ProviderError, RefusedError, UnencodableError
from schemas.records import Completion, Enrichment

# No more than the settings allow: where nobody knows any more how many calls a failed request had.
_MOST_SAMPLES = 32
# A failure is booked by whoever comes first; the others wait for it.
_WAIT_S = 0.2
_NOWHERE = Bound(prompt_tokens=0, completion_tokens=0, usd=Decimal(0))

# Makes one sample's call, or reads what became of it.
Call = Callable[[Incoming[Enrichment], Offer, int], Awaitable[Done | Ended | Expired]]
# The task that ends the request's own call as failed.
TaskOf = Callable[[Granted], Task]


class FanOuts:
    """Fans requests out. One for each worker."""

    def __init__(
        self,
        journal: Journal,
        codec: Codec,
        tasks: Tasks,
        caller: Caller,
        *,
        owner: str,
        scorer: ReplyScorer | None,
        failpoints: Failpoints,
    ) -> None:
        self._journal, self._codec, self._tasks, self._caller = journal, codec, tasks, caller
        self._owner, self._scorer, self._failpoints = owner, scorer, failpoints

    async def run(
        self, incoming: Incoming[Enrichment], offer: Offer, route: Route, *, call: Call, task_of: TaskOf
    ) -> tuple[Done | Ended | Expired, tuple[Sample, ...]]:
        """What the request's call has ended with, and its samples; ``Expired`` when nothing was begun.

        Blocks for all of the calls: one that fails leaves the others be. Raises ``NotYetError`` when too few were
        answered and one has to wait for its deployment, and what else a sample raises, after all have ended.
        """
        policy = route.fan_out
        assert policy is not None
        known = await self._journal.outcome_of(offer.key)
        if known is not None:
            return known, await self.samples_of(offer.key, known, at_least=policy.size)
        found = await asyncio.gather(
            *(self._sample(incoming, offer, number, call) for number in range(policy.size)), return_exceptions=True
        )
        broken = [one for one in found if isinstance(one, BaseException)]
        for one in broken:
            if not isinstance(one, NotYetError):
                raise one
        samples = tuple([await self._unbroken(offer.key, number, one) for number, one in enumerate(found)])
        answered = [one for one in samples if one.completion is not None]
        if len(answered) < policy.needed and broken and route.last_resort is None:
            raise broken[0]
        begun = any(one.rows or one.completion is not None for one in samples)
        # Where every sample would have to wait, and none is too late, the last resort answers.
        if not begun and (offer.refused is not None or len(broken) < len(found)):
            return Expired(), samples
        self._failpoints.hit("after_samples")
        cancelled = any(one.failure == CANCELLED for one in samples)
        if cancelled:
            failure = CANCELLED
        elif len(answered) >= policy.needed:
            try:
                return await self._serve(incoming, offer, policy, samples), samples
            except UnencodableError as error:
                failure = CallFailure(
                    kind="failed", code="unrecordable_response", error_class=error.error_class, message=str(error)
                )
        else:
            failure = next(one.failure for one in samples if one.failure is not None)
        return await self._fail(offer, policy, samples, offer.refused or failure, task_of), samples

    async def check(self, asked: Enrichment, key: CallKey, route: Route) -> None:
        """Raises ``RefusedError`` for what joined texts can't be, unless it was answered before.

        To be asked before anything is reserved. Blocks on the journal only where it would raise.
        """
        if route.fan_out is None or route.fan_out.aggregate != "join" or asked.request.response_format.type == "text":
            return
        if await self._journal.outcome_of(key) is None:
            message = f"response_format.type: the route {route.name} joins texts, which are no JSON; ask another route"
            raise RefusedError("fan_out_join", f"{message} for JSON", field="response_format.type")

    async def samples_of(self, key: CallKey, claim: Done | Ended, *, at_least: int = 0) -> tuple[Sample, ...]:
        """The samples behind what a request's call has ended with; none where it was not fanned out."""
        if claim.attempts and claim.attempts[0].target.deployment and not at_least:
            return ()
        if isinstance(claim, Done):
            fan_out = self._codec.decode(claim.result, Completion).fan_out
            return tuple([await self._stored(key, one.number) for one in (fan_out.samples if fan_out else ())])
        samples: list[Sample] = []
        while len(samples) < _MOST_SAMPLES:
            one = await self._stored(key, len(samples))
            if len(samples) >= at_least and not one.rows and one.completion is None:
                break
            samples.append(one)
        return tuple(samples)

    async def _sample(self, incoming: Incoming[Enrichment], offer: Offer, number: int, call: Call) -> Sample:
        key = sample_key(offer.key, number)
        asked = self._tasks.sample_input(incoming, number)
        own = replace(self._tasks.offer(asked, sample=number), refused=offer.refused)
        earlier = await self._journal.earlier_result(key, own.input_hash) if key.run else None
        if earlier is not None:
            await self._journal.serve(replace(own, expires_at=None, refused=None), lambda _: earlier.result)
        return self._as_sample(key, await call(asked, own, number), refused=offer.refused)

    async def _unbroken(self, key: CallKey, number: int, found: Sample | BaseException) -> Sample:
        """A sample that has to wait for its deployment counts as failed, with what was tried."""
        if isinstance(found, Sample):
            return found
        one = await self._stored(key, number)
        return replace(one, failure=one.failure or _failure("deployment_unavailable", "no deployment could be asked"))

    async def _stored(self, key: CallKey, number: int) -> Sample:
        own = sample_key(key, number)
        known = await self._journal.outcome_of(own)
        if known is not None:
            return self._as_sample(own, known)
        return Sample(number=number, key=own, rows=await self._journal.attempts_of(own))

    def _as_sample(self, key: CallKey, claim: Done | Ended | Expired, *, refused: CallFailure | None = None) -> Sample:
        if isinstance(claim, Expired):
            return Sample(number=key.ordinal, key=key, failure=refused or EXPIRED)
        if isinstance(claim, Ended):
            return Sample(number=key.ordinal, key=key, rows=claim.attempts, failure=claim.failure)
        completion = self._codec.decode(claim.result, Completion)
        return Sample(number=key.ordinal, key=key, rows=claim.attempts, completion=completion)

    async def _serve(
        self, incoming: Incoming[Enrichment], offer: Offer, policy: FanOutPolicy, samples: Sequence[Sample]
    ) -> Done | Ended | Expired:
        """Book what the samples make together."""
        answered = [Reply(one.number, one.completion) for one in samples if one.completion is not None]
        if policy.aggregate == "best":
            answered = await self._scored(incoming, policy, answered)
        chosen = aggregate(policy, answered)
        completion = completion_of_samples(incoming, policy, samples, answered, chosen, input_hash=offer.input_hash)
        self._codec.encode(completion)

        def make(lost: tuple[AttemptRow, ...]) -> bytes:
            own = tuple(attempt_of(row) for row in lost)
            cost_usd = completion.cost_usd + sum((one.cost_usd or Decimal(0) for one in own), Decimal(0))
            return self._codec.encode(replace(completion, attempts=(*completion.attempts, *own), cost_usd=cost_usd))

        while True:
            # Paid: whether it is too late by now is the filter's to say.
            claim = await self._journal.serve(replace(offer, expires_at=None, refused=None), make)
            if not isinstance(claim, Busy | Granted):
                return claim
            await asyncio.sleep(_WAIT_S)

    async def _scored(
        self, incoming: Incoming[Enrichment], policy: FanOutPolicy, answered: Sequence[Reply]
    ) -> list[Reply]:
        async def one_of(reply: Reply) -> Reply:
            text = reply.completion.text
            if self._scorer is None or text is None or not (text.inline or "").strip():
                return reply
            try:
                async with asyncio.timeout(policy.score_timeout_s):
                    score = await self._scorer.score(policy.scorer, text.inline or "", incoming)
            except (DependencyDownError, ProviderError, TimeoutError):
                # The replies are paid: without scores the first of them stands.
                return reply
            return replace(reply, score=score.value)

        return list(await asyncio.gather(*map(one_of, answered)))

    async def _fail(
        self,
        offer: Offer,
        policy: FanOutPolicy,
        samples: Sequence[Sample],
        failure: CallFailure,
        task_of: TaskOf,
    ) -> Done | Ended | Expired:
        """Book that too few were answered, or the last resort in their place."""
        nowhere = replace(
            offer.target, deployment="", provider="", model="", price_source="", account="", bound=_NOWHERE
        )
        final = replace(
            offer, target=nowhere, expires_at=None, refused=None, max_attempts=_MOST_SAMPLES, unknown_policy="repeat"
        )
        record = record_of_samples(policy, samples, [], None)
        booked = attempts_of(samples)

        def whole(resort: Resort) -> Resort:
            def with_samples(attempts: tuple[AttemptRow, ...], settled: Settled, code: str) -> bytes:
                one = self._codec.decode(resort(attempts, settled, code), Completion)
                cost_usd = one.cost_usd + sum((sample.cost_usd for sample in samples), Decimal(0))
                estimated = one.estimated or any(attempt.estimated for attempt in booked)
                every = (*booked, *one.attempts)
                return self._codec.encode(
                    replace(one, cost_usd=cost_usd, estimated=estimated, attempts=every, fan_out=record)
                )

            return with_samples

        while True:
            since = time.monotonic()
            claim = await self._journal.claim(final, owner=self._owner)
            if isinstance(claim, Granted):
                task = task_of(claim)
                if task.resort is not None:
                    task = replace(task, resort=whole(task.resort))
                try:
                    await self._caller.failed(claim, task, failure, since=since)
                except FencedError:
                    continue
            elif not isinstance(claim, Busy):
                return claim
            else:
                await asyncio.sleep(_WAIT_S)


def _failure(code: str, message: str) -> CallFailure:
    return CallFailure(kind="failed", code=code, error_class="transient-provider", message=message, retryable=True)
