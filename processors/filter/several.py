"""What an answer says of the models behind it: replies checked before a stronger model, and fanned-out calls."""

from __future__ import annotations

from schemas.records import Cascade, CascadeStep, Completion, FanOut, Verdict

_STAGE = "complete"
_OUTCOMES = {"escalated": "changed", "stood": "failed"}


def models_behind(completion: Completion) -> list[Verdict]:
    """A verdict for each of the two, where the route has it. Figures and names only, no text of a model."""
    verdicts = []
    if completion.cascade is not None:
        verdicts.append(_cascade(completion.cascade, completion.deployment))
    if completion.fan_out is not None:
        verdicts.append(_fan_out(completion.fan_out))
    return verdicts


def _cascade(done: Cascade, answered_by: str) -> Verdict:
    weak = [step for step in done.steps if step.outcome != "passed"]
    shown = weak or done.steps
    said = [_said(step) for step in shown]
    said += [f"answered by {answered_by}"] if done.outcome == "escalated" else []
    said += [f"stands: {done.reason}"] if done.reason is not None else []
    return Verdict(
        guard="cascade",
        version="1",
        stage=_STAGE,
        outcome=_OUTCOMES.get(done.outcome, "pass"),
        category=weak[-1].check if weak else None,
        count=len(weak),
        score=_share(shown[-1]) if shown else None,
        detail="; ".join(said) or None,
    )


def _said(step: CascadeStep) -> str:
    found = [word for word in (step.check, step.code) if word is not None]
    if step.value is not None and step.threshold is not None:
        found.append(f"{step.value:g} of {step.threshold:g}")
    return f"{step.deployment} {step.outcome}" + (f" ({' '.join(found)})" if found else "")


def _share(step: CascadeStep) -> float | None:
    """A figure from 0 to 1; words are none."""
    return step.value if step.code in ("grounded", "ungrounded") else None


def _fan_out(done: FanOut) -> Verdict:
    used = [str(one.number) for one in done.samples if one.used]
    scores = [one.score for one in done.samples if one.used]
    return Verdict(
        guard="fan_out",
        version="1",
        stage=_STAGE,
        outcome="pass" if done.answered else "failed",
        category=done.aggregate,
        count=done.answered,
        score=done.agreement if done.aggregate == "vote" else scores[0] if scores else None,
        detail=f"{done.answered} of {len(done.samples)} answered; used: {', '.join(used) or 'none'}",
    )
