"""The evaluate stage: answers and feedback in, scores out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from processors.embeddings import Embedder
from processors.evaluate.feedback import check_feedback, digest_of, rating_score
from processors.evaluate.material import material
from processors.evaluate.policy import EvaluatePolicy
from processors.evaluate.sampling import Choice
from processors.evaluate.scoring import score
from processors.evaluate.store import EvaluationStore, Received, Stored, Subject
from processors.event import Incoming, Output, Recorded
from processors.spending.payer import Payer
from schemas.codec import Codec
from schemas.ids import event_id
from schemas.records import Answer, Cost, Evaluation, Feedback, Meta, Score

STAGE = "evaluate"
VERSION = "1"
ANSWERED = "answered"
FEEDBACK = "feedback"


class EvaluateObserver(Protocol):
    """Told what the stage did, once for each answer and feedback however often it is delivered."""

    def on_expected(self) -> None:
        """An answer was chosen."""
        ...

    def on_done(self, outcome: str) -> None:
        """It was scored. ``outcome``: scored, partial (some scores have no value) or unscored (none has)."""
        ...

    def on_feedback(self, outcome: str) -> None:
        """``outcome``: joined to its answer, or waiting for it."""
        ...


class Evaluate:
    """Processor of the evaluate stage; takes ``Answer`` and ``Feedback``.

    Blocks on Postgres and, for a sampled answer, on the embedding endpoint. Raises ``DependencyDownError``,
    ``PoisonError`` for feedback that can't be taken, and ``ProviderError`` when the endpoint refuses or fails: an
    evaluation is published whole or not at all.
    """

    def __init__(
        self,
        store: EvaluationStore,
        embedder: Embedder,
        *,
        codec: Codec,
        lane: str,
        policy: EvaluatePolicy | None = None,
        observer: EvaluateObserver | None = None,
    ) -> None:
        self._store, self._embedder, self._codec = store, embedder, codec
        self._lane, self._policy = lane, policy or EvaluatePolicy()
        self._observer = observer or Unobserved()

    async def __call__(self, incoming: Incoming[Any]) -> Sequence[Output]:
        if isinstance(incoming.record, Feedback):
            return await self._told(incoming)
        return await self._answered(incoming)

    async def _answered(self, incoming: Incoming[Answer]) -> list[Output]:
        """Join the feedback that came before its answer, then score the answer if it is chosen."""
        answer = incoming.record
        meta = incoming.child(STAGE, VERSION)
        outputs: list[Output] = []
        for value in await self._store.waiting(_subject(meta, answer)):
            feedback = await self._codec.decode_fetching(value, Feedback)
            if feedback.answer_event_id in (None, answer.meta.event_id):
                outputs.append(await self._join(feedback, answer, value, incoming.control_offset))
        # What was not answered has no text to score, so none is expected.
        if answer.status != ANSWERED:
            return outputs
        choice = self._policy.sampling.choose(
            request_id=answer.meta.request_id, tenant=answer.meta.tenant, route=answer.route
        )
        if choice is not None:
            outputs += await self._evaluate(incoming, choice)
        return outputs

    async def _evaluate(self, incoming: Incoming[Answer], choice: Choice) -> list[Output]:
        answer, meta = incoming.record, incoming.child(STAGE, VERSION)
        subject = _subject(meta, answer)
        stored = await self._store.expect(subject)
        if stored.fresh:
            self._observer.on_expected()
        if stored.value is None:
            stored = await self._score(incoming, subject, choice)
        return await self._outputs(stored)

    async def _score(self, incoming: Incoming[Answer], subject: Subject, choice: Choice) -> Stored:
        answer, started = incoming.record, time.perf_counter()
        scores = await score(material(answer), self._embedder, self._policy, _payer(incoming))
        evaluation = replace(
            _evaluation(incoming.child(STAGE, VERSION), answer, scores),
            sampling_probability=choice.probability,
            sampled_by=choice.rule,
            duration_ms=round((time.perf_counter() - started) * 1000, 3),
        )
        stored = await self._store.finish(subject, scores=scores, value=self._codec.encode(evaluation))
        if stored.fresh:
            self._observer.on_done(_outcome(scores))
        return stored

    async def _told(self, incoming: Incoming[Feedback]) -> list[Output]:
        """Keep the feedback, then join it to its answer if that is there. Kept first: an answer that becomes final
        meanwhile finds it.
        """
        feedback = incoming.record
        check_feedback(feedback, self._lane)
        fresh = await self._store.receive(_received(feedback, incoming.raw))
        meta = feedback.meta
        value = await self._store.answer(meta.tenant, meta.lane, meta.request_id, feedback.answer_event_id)
        if value is None:
            if fresh:
                self._observer.on_feedback("waiting")
            return []
        answer = await self._codec.decode_fetching(value, Answer)
        return [await self._join(feedback, answer, incoming.raw, incoming.control_offset)]

    async def _join(self, feedback: Feedback, answer: Answer, raw: bytes, control_offset: int) -> Output:
        meta = _feedback_meta(feedback, answer, control_offset)
        scores = (rating_score(feedback),)
        evaluation = replace(
            _evaluation(meta, answer, scores),
            sampled_by=FEEDBACK,
            feedback_event_id=feedback.meta.event_id,
            user=feedback.user or answer.user,
            session=feedback.session or answer.session,
        )
        value = self._codec.encode(evaluation)
        subject = replace(_subject(meta, answer), source="feedback")
        stored = await self._store.finish(subject, scores=scores, value=value)
        if stored.fresh:
            self._observer.on_feedback("joined")
        published = evaluation
        if stored.value is not None and stored.value != value:
            published = await self._codec.decode_fetching(stored.value, Evaluation)
        await self._store.joined(_received(feedback, raw), published.answer_event_id)
        return Recorded(published, stored.value or value)

    async def _outputs(self, stored: Stored) -> list[Output]:
        outputs: list[Output] = []
        if stored.cost is not None:
            # Of an evaluation from before embeddings were booked call by call.
            outputs.append(Recorded(await self._codec.decode_fetching(stored.cost, Cost), stored.cost))
        if stored.value is not None:
            outputs.append(Recorded(await self._codec.decode_fetching(stored.value, Evaluation), stored.value))
        return outputs


class Unobserved:
    """An observer that looks away."""

    def on_expected(self) -> None: ...

    def on_done(self, outcome: str) -> None: ...

    def on_feedback(self, outcome: str) -> None: ...


def _evaluation(meta: Meta, answer: Answer, scores: tuple[Score, ...]) -> Evaluation:
    return Evaluation(
        meta=meta,
        answer_event_id=answer.meta.event_id,
        answer_status=answer.status,
        revision=answer.revision,
        scores=scores,
        team=answer.team,
        user=answer.user,
        session=answer.session,
        feature=answer.feature,
        model=answer.model,
        route=answer.route,
        prompt_version=answer.prompt_version,
        index_version=answer.index_version,
        arm=answer.arm,
    )


def _payer(incoming: Incoming[Answer]) -> Payer:
    answer = incoming.record
    return Payer(
        meta=incoming.meta,
        stage=STAGE,
        version=VERSION,
        # The evaluation is kept as a whole.
        keeps=False,
        route=answer.route,
        prompt_version=answer.prompt_version,
        team=answer.team,
        user=answer.user,
        session=answer.session,
        feature=answer.feature,
        tier=answer.tier,
        arm=answer.arm,
    )


def _subject(meta: Meta, answer: Answer) -> Subject:
    return Subject(
        tenant=meta.tenant,
        lane=meta.lane,
        request_id=meta.request_id,
        event_id=meta.event_id,
        answer_event_id=answer.meta.event_id,
        source="sample",
        route=answer.route,
        model=answer.model,
        prompt_version=answer.prompt_version,
    )


def _received(feedback: Feedback, raw: bytes) -> Received:
    meta = feedback.meta
    return Received(
        tenant=meta.tenant,
        lane=meta.lane,
        request_id=meta.request_id,
        event_id=meta.event_id,
        digest=digest_of(feedback),
        value=raw,
    )


def _feedback_meta(feedback: Feedback, answer: Answer, control_offset: int) -> Meta:
    """The meta of the evaluation that feedback becomes, whichever of feedback and answer came last."""
    meta, cause = answer.meta, feedback.meta.event_id
    own = event_id(tenant=meta.tenant, lane=meta.lane, run=meta.run, stage=STAGE, causation_id=cause)
    return Meta(
        event_id=own,
        request_id=meta.request_id,
        tenant=meta.tenant,
        lane=meta.lane,
        run=meta.run,
        causation_id=cause,
        stage=STAGE,
        stage_version=VERSION,
        accepted_at=meta.accepted_at,
        control_offset=control_offset,
    )


def _outcome(scores: Sequence[Score]) -> str:
    valued = sum(score.value is not None for score in scores)
    return "scored" if scores and valued == len(scores) else "partial" if valued else "unscored"
