"""The judge of replies that have to be JSON: check, repair, ask again, give up; and what it did, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from processors.complete.judging import Accept, AskAgain, Judgement, Refuse, judged_wrong
from processors.complete.payload import Payload, token_limit
from processors.complete.routes import Route
from processors.filter.tokens import strip_tokens
from processors.journal import AttemptRow, CallFailure
from processors.journal.protocol import INVALID_OUTPUT
from processors.model.port import ModelReply
from processors.structured.asking import ask_again
from processors.structured.check import JSON_TYPES, Fault, fault_of, fault_of_value
from processors.structured.repair import UnrepairableError, repaired
from schemas.records import Request, ResponseFormat, Structured, StructuredStep

_LOST = "found wrong by a worker that is gone"


class StructuredJudge:
    """Judges the replies of one task. ``repeats`` bounds how many more are asked for, over all workers of the call.

    ``rooms`` are the tokens that the context windows have for a prompt, by deployment.

    What was cut off at its token limit, declined or held back is accepted: the filter says so, and asking again with
    the same limit or prompt would buy the same.
    """

    def __init__(
        self, wanted: ResponseFormat, first: Payload, *, repeats: int, repair: bool, rooms: Mapping[str, int]
    ) -> None:
        self._wanted, self._first = wanted, first
        self._repeats, self._repair, self._rooms = repeats, repair, rooms
        self._steps: list[StructuredStep] = []

    def __call__(self, reply: ModelReply, attempts: Sequence[AttemptRow]) -> Judgement:
        """Check one reply. Blocks for half a second at the worst, where a text is long and has to be repaired."""
        if not _judged(reply):
            return Accept(reply=reply)
        number, wrote = attempts[-1].ordinal, reply.text or ""
        fault = fault_of(wrote, self._wanted)
        if fault is None:
            self._steps.append(StructuredStep(attempt=number, outcome="valid"))
            return Accept(reply=reply)
        mended = self._mended(wrote) if self._repair and not fault.hopeless else None
        if isinstance(mended, str):
            self._steps.append(_step(number, "repaired", fault))
            return Accept(reply=replace(reply, text=mended))
        # What is left when the JSON can be read says more than that it could not be read as it was written.
        fault = mended or fault
        self._steps.append(_step(number, "wrong", fault))
        asked = judged_wrong(attempts)
        failure = _failure(fault, replies=asked + 1)
        if fault.hopeless or asked >= self._repeats:
            return Refuse(failure=failure)
        shown, room = strip_tokens(wrote).text, self._rooms.get(attempts[-1].target.deployment, 0)
        return AskAgain(payload=ask_again(self._first, shown, fault, room_tokens=room), otherwise=failure)

    def record(self, attempts: Sequence[AttemptRow]) -> Structured | None:
        """What was done, for the completion; ``None`` when no reply was checked."""
        seen = {step.attempt for step in self._steps}
        lost = [
            StructuredStep(attempt=row.ordinal, outcome="wrong", code=INVALID_OUTPUT, detail=_LOST)
            for row in attempts
            if row.error_code == INVALID_OUTPUT and row.ordinal not in seen
        ]
        if not self._steps and not lost:
            return None
        steps = tuple(sorted([*lost, *self._steps], key=lambda step: step.attempt))
        return Structured(wanted=self._wanted.type, outcome=steps[-1].outcome, steps=steps)

    def _mended(self, wrote: str) -> str | Fault | None:
        """The text as it was meant; else what is wrong with it even so, if anything could be read in it."""
        try:
            text, value = repaired(wrote)
        except UnrepairableError:
            return None
        return fault_of_value(value, self._wanted) or text


def judge_of(request: Request, route: Route, payload: Payload) -> StructuredJudge | None:
    """The judge of a task whose first attempt sends ``payload``; ``None`` where replies need not be JSON."""
    if request.response_format.type not in JSON_TYPES:
        return None
    return StructuredJudge(
        request.response_format,
        payload,
        repeats=route.repair_attempts,
        repair=route.repair,
        rooms={one.name: one.context_tokens - token_limit(request.sampling, one) for one in route.deployments},
    )


def _judged(reply: ModelReply) -> bool:
    if reply.refusal is not None or reply.finish_reason in ("content_filter", "length"):
        return False
    # A turn that calls tools need not say anything.
    return bool(reply.text) or reply.tool_calls_json is None


def _step(number: int, outcome: str, fault: Fault) -> StructuredStep:
    return StructuredStep(attempt=number, outcome=outcome, code=fault.code, detail=fault.detail)


def _failure(fault: Fault, *, replies: int) -> CallFailure:
    count = "1 reply" if replies == 1 else f"{replies} replies"
    return CallFailure(
        kind="failed",
        code=INVALID_OUTPUT,
        error_class="permanent",
        message=f"{fault.detail}; {count} of the model can't be used",
    )
