"""Whether a cheap model's reply stands, or a stronger model is asked: refusal, form and length, groundedness.

A reply that is not good enough is a paid attempt all the same: it is booked ``failed`` as ``escalated_<check>`` with
the usage and cost that it really had. Until a stronger model has answered the reply is kept, and stands when none does.
The journal has it, too: a worker that takes the call over from one that was lost goes on at the stronger model, and has
what was kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from processors.budgets.refusal import BUDGET_EXCEEDED
from processors.complete import keeping
from processors.complete.judging import Accept, Judgement
from processors.complete.policies import CascadePolicy
from processors.complete.retry import Go, Verdict, failure_of
from processors.complete.routes import Group, Route
from processors.evaluate.replies import ReplyScorer
from processors.event import Incoming
from processors.filter.tokens import strip_tokens
from processors.journal import AttemptRow, CallFailure, Settled
from processors.journal.protocol import INDETERMINATE
from processors.model.port import ModelReply
from schemas.errors import DependencyDownError, ProviderError
from schemas.records import Cascade, CascadeStep, Enrichment

ESCALATED = "escalated_"
# Refusals begin so; compared without case, within so many characters.
REFUSALS = (
    "i can't help",
    "i cannot help",
    "i can't assist",
    "i cannot assist",
    "i can't answer",
    "i cannot answer",
    "i can't provide",
    "i cannot provide",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "i won't be able to",
    "i don't have enough information",
    "i do not have enough information",
    "i don't know",
    "i do not know",
    "as an ai",
)
_BEGINNING_CHARS = 200
_DIGITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    check: str
    code: str
    value: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """A reply that answers when no stronger model does, and the attempt that brought it, closed as it really ended."""

    reply: ModelReply
    row: AttemptRow


class Checks:
    """The checks of one task. ``affordable``: whether the call's budgets hold a stronger model's call."""

    def __init__(
        self,
        route: Route,
        policy: CascadePolicy,
        asked: Incoming[Enrichment],
        scorer: ReplyScorer | None,
        *,
        affordable: bool,
    ) -> None:
        self._route, self._policy, self._asked, self._scorer = route, policy, asked, scorer
        self._affordable = affordable
        self._checked = {one.name for group in (route.own, *policy.groups) for one in group.deployments}
        self._steps: list[CascadeStep] = []
        self._reason: str | None = None
        self.standing: Standing | None = None

    def take_up(self, data: bytes, attempts: Sequence[AttemptRow]) -> None:
        """Go on with what an earlier worker kept of these attempts, which are closed."""
        kept = keeping.read(data)
        row = None if kept is None else next((row for row in attempts if row.ordinal == kept.attempt), None)
        if kept is not None and row is not None:
            self.standing, self._steps = Standing(kept.reply, row), list(kept.steps)

    def kept(self, attempt: AttemptRow) -> bytes | None:
        """The reply of this attempt, for the journal; ``None`` where it does not stand."""
        if self.standing is None or self.standing.row.ordinal != attempt.ordinal:
            return None
        return keeping.written(self.standing.reply, attempt.ordinal, self._steps)

    async def escalation(
        self,
        reply: ModelReply,
        judgement: Judgement,
        attempts: Sequence[AttemptRow],
        settled: Settled,
        *,
        left_s: float,
    ) -> tuple[Go, CallFailure] | None:
        """Where to ask now, and how the attempt that brought ``reply`` is booked; ``None`` to let it stand.

        Blocks on the scorer for ``check_timeout_s`` at most. Does not raise.
        """
        last = attempts[-1]
        group = upcoming(self._policy.groups, attempts)
        if last.target.deployment not in self._checked or group is None:
            return None
        # What stood before was asked for once more since.
        self._reason = None
        fault, score = await self._fault(reply, judgement, left_s)
        if fault is None:
            self._steps.append(self._step(last, "passed", score))
            return None
        # Better than none, should no stronger model answer: unless it is not even of the form that was wanted.
        if isinstance(judgement, Accept) and keeping.written(judgement.reply, last.ordinal, ()) is not None:
            self.standing = Standing(judgement.reply, _closed(last, settled))
        if not self._affordable:
            self._reason = "budget"
        elif left_s < self._policy.least_time_s:
            self._reason = "time"
        if self._reason is not None:
            self._steps.append(self._step(last, "stood", fault))
            return None
        self._steps.append(self._step(last, "escalated", fault))
        return Go(group=group, cause="cascade"), _failure(fault)

    def after_error(self, error: ProviderError, verdict: Verdict, attempts: Sequence[AttemptRow]) -> Verdict:
        """What follows ``error`` at a stronger model: the next one, else the kept reply; else ``verdict``, as usual."""
        stronger = {one.name for group in self._policy.groups for one in group.deployments}
        if attempts[-1].target.deployment not in stronger or verdict == INDETERMINATE:
            return verdict
        group = upcoming(self._policy.groups, attempts)
        if group is not None:
            return Go(group=group, cause="cascade")
        return verdict if self.standing is None else failure_of(error)

    def stands(self, failure: CallFailure) -> Standing | None:
        """The kept reply, which answers now because no stronger model does, for this reason."""
        if self.standing is not None:
            self._reason = "budget" if failure.code == BUDGET_EXCEEDED else "unavailable"
        return self.standing

    def record(self, attempts: Sequence[AttemptRow], *, answered: bool = True) -> Cascade:
        """What was found, for the completion; ``answered``: by a model."""
        seen = {step.attempt for step in self._steps}
        lost = [
            CascadeStep(
                attempt=row.ordinal,
                deployment=row.target.deployment,
                outcome="escalated",
                check=row.error_code.removeprefix(ESCALATED),
            )
            for row in attempts
            if row.error_code is not None and row.error_code.startswith(ESCALATED) and row.ordinal not in seen
        ]
        steps = tuple(sorted([*lost, *self._steps], key=lambda step: step.attempt))
        escalated = any(step.outcome == "escalated" for step in steps)
        if self._reason is not None:
            outcome = "stood"
        elif escalated and answered:
            outcome = "escalated"
        else:
            outcome = "kept" if steps and not escalated else "unchecked"
        return Cascade(outcome=outcome, reason=self._reason, steps=steps)

    async def _fault(
        self, reply: ModelReply, judgement: Judgement, left_s: float
    ) -> tuple[_Fault | None, _Fault | None]:
        """What is wrong with the reply, and the figure that was looked at last."""
        policy = self._policy
        if policy.refusal:
            code = refusal_in(reply, policy.phrases)
            if code is not None:
                return _Fault(check="refusal", code=code), None
        if policy.format:
            found = self._form(reply, judgement)
            if found is not None:
                return found, None
        if policy.least_groundedness is None or not (reply.text or "").strip():
            return None, None
        if self._scorer is None:
            return None, _Fault(check="groundedness", code="no_scorer", threshold=policy.least_groundedness)
        score = await self._groundedness(reply.text or "", policy.least_groundedness, left_s)
        return (score, score) if score.code == "ungrounded" else (None, score)

    def _form(self, reply: ModelReply, judgement: Judgement) -> _Fault | None:
        if not isinstance(judgement, Accept):
            return _Fault(check="format", code="invalid_output")
        if reply.finish_reason == "length":
            return _Fault(check="format", code="cut_off")
        if reply.tool_calls_json is not None or self._asked.record.request.response_format.type != "text":
            return None
        words, least = len(strip_tokens(reply.text or "").text.split()), max(1, self._policy.least_words)
        if words < least:
            return _Fault(check="format", code="too_short", value=float(words), threshold=float(least))
        return None

    async def _groundedness(self, text: str, least: float, left_s: float) -> _Fault:
        assert self._scorer is not None
        code, value = "ungrounded", None
        try:
            async with asyncio.timeout(max(0.0, min(self._policy.check_timeout_s, left_s))):
                score = await self._scorer.score("groundedness", text, self._asked)
        except (DependencyDownError, ProviderError, TimeoutError):
            # The reply is paid: whoever can't be asked about it does not cost another one.
            code = "embeddings_unavailable"
        else:
            value = score.value
            if value is None:
                code = score.failure_code or "unscored"
            elif value >= least:
                code = "grounded"
        return _Fault(check="groundedness", code=code, value=value, threshold=least)

    def _step(self, row: AttemptRow, outcome: str, found: _Fault | None) -> CascadeStep:
        step = CascadeStep(attempt=row.ordinal, deployment=row.target.deployment, outcome=outcome)
        if found is None:
            return step
        value = None if found.value is None else round(found.value, _DIGITS)
        check = None if outcome == "passed" else found.check
        return replace(step, check=check, code=found.code, value=value, threshold=found.threshold)


def refusal_in(reply: ModelReply, phrases: Sequence[str] = ()) -> str | None:
    """How the model refused to answer, as a code; ``None`` where it did not."""
    if reply.refusal is not None:
        return "declined"
    if reply.finish_reason == "content_filter":
        return "withheld"
    text = strip_tokens(reply.text or "").text.strip()[:_BEGINNING_CHARS].casefold().replace("\u2019", "'")
    wanted = (*REFUSALS, *(phrase.casefold().replace("\u2019", "'") for phrase in phrases))
    return "phrase" if any(phrase in text for phrase in wanted) else None


def upcoming(groups: Sequence[Group], attempts: Sequence[AttemptRow]) -> Group | None:
    """The first group behind the last one at which anything was tried."""
    tried, left = {row.target.deployment for row in attempts}, list(groups)
    for number, group in enumerate(groups):
        if any(one.name in tried for one in group.deployments):
            left = list(groups[number + 1 :])
    return left[0] if left else None


def beginning(route: Route, attempts: Sequence[AttemptRow]) -> Go:
    """Where a call is begun, or goes on after its worker was lost: a reply that was escalated is not bought again."""
    escalated = {row.target.deployment for row in attempts if (row.error_code or "").startswith(ESCALATED)}
    if route.cascade is None or not escalated:
        return Go(group=route.own)
    groups, tried, at = route.cascade.groups, {row.target.deployment for row in attempts}, 0
    for number, group in enumerate(groups):
        names = {one.name for one in group.deployments}
        if names & tried:
            # Behind it where its own reply did not pass either.
            at = number + bool(names & escalated)
    return Go(group=groups[min(at, len(groups) - 1)], cause="cascade")


def _closed(row: AttemptRow, settled: Settled) -> AttemptRow:
    return replace(row, usage=settled.usage, duration_ms=settled.duration_ms, first_token_ms=settled.first_token_ms)


def _failure(fault: _Fault) -> CallFailure:
    return CallFailure(
        kind="failed",
        code=f"{ESCALATED}{fault.check}",
        error_class="permanent",
        message=f"the reply of a model did not pass the check of its {fault.check} ({fault.code}),"
        " and no stronger one answered",
    )
