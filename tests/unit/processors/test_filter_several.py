"""What the verdicts of an answer say of the models behind it."""

from __future__ import annotations

import pytest

from processors.clock import FakeClock
from processors.event import Incoming
from processors.filter.policy import FilterPolicy
from processors.filter.processor import Filter
from schemas.codec import Codec
from schemas.records import Answer, Cascade, CascadeStep, Completion, FanOut, FanOutSample, Verdict
from tests.unit.processors.test_filter import completion

CODEC = Codec.offline()


def step(outcome: str, check: str | None = None, code: str | None = None, value: float | None = None) -> CascadeStep:
    threshold = None if value is None else 0.6
    return CascadeStep(deployment="small", outcome=outcome, check=check, code=code, value=value, threshold=threshold)


async def verdict(record: Completion, guard: str) -> Verdict:
    incoming = Incoming(record=record, meta=record.meta, raw=CODEC.encode(record), appended_at=None, control_offset=0)
    [answer] = await Filter(policy=FilterPolicy(), clock=FakeClock())(incoming)
    assert isinstance(answer, Answer) and answer.status == "answered"
    [found] = [one for one in answer.verdicts if one.guard == guard]
    return found


@pytest.mark.parametrize(
    ("cascade", "outcome", "score", "detail"),
    [
        (
            Cascade(outcome="escalated", steps=(step("escalated", "groundedness", "ungrounded", 0.31),)),
            "changed",
            0.31,
            "small escalated (groundedness ungrounded 0.31 of 0.6); answered by big",
        ),
        (
            Cascade(outcome="stood", reason="time", steps=(step("stood", "format", "cut_off"),)),
            "failed",
            None,
            "small stood (format cut_off); stands: time",
        ),
        (
            Cascade(outcome="kept", steps=(step("passed", None, "grounded", 0.8),)),
            "pass",
            0.8,
            "small passed (grounded 0.8 of 0.6)",
        ),
        (Cascade(outcome="unchecked"), "pass", None, None),
    ],
)
async def test_a_cascade_says_which_check_escalated_with_its_figures(
    cascade: Cascade, outcome: str, score: float | None, detail: str | None
) -> None:
    found = await verdict(completion(cascade=cascade, deployment="big"), "cascade")
    assert (found.outcome, found.score, found.detail, found.stage) == (outcome, score, detail, "complete")


async def test_a_fan_out_says_how_many_answered_and_agreed() -> None:
    samples = tuple(FanOutSample(number=number, used=number == 1) for number in range(3))
    voted = FanOut(aggregate="vote", answered=2, agreement=0.5, samples=samples)
    found = await verdict(completion(fan_out=voted), "fan_out")
    assert (found.outcome, found.category, found.count, found.score) == ("pass", "vote", 2, 0.5)
    assert found.detail == "2 of 3 answered; used: 1"
