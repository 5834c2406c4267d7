"""Makes the scores that follow from an answer's text alone again, and compares. Pure; spends nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from processors.evaluate.form import FORMAT, LENGTH, form, length
from processors.evaluate.material import Material, material
from schemas.records import Answer, Score

# By name: scorer and version as they are in this release.
RULES = {LENGTH[0]: LENGTH, FORMAT[0]: FORMAT}
# The bounds that a length was judged by are told with it: settings may have changed since.
_BOUNDS = re.compile(r"wanted ([0-9]{1,9}) to ([0-9]{1,9})\Z")


@dataclass(frozen=True, slots=True)
class Told:
    """What an evaluation says of one score."""

    name: str
    value: float | None
    failure_code: str | None
    explanation: str


def told(score: Score) -> Told:
    """What is compared of a score."""
    explanation = score.explanation.inline if score.explanation is not None else None
    return Told(score.name, score.value, score.failure_code, explanation or "")


def can_repeat(score: Score) -> bool:
    """Whether the scorer is here, in the version that made the score."""
    return RULES.get(score.name) == (score.name, score.scorer, score.scorer_version)


def is_readable(answer: Answer) -> bool:
    """Whether the answer's text is there, if it has one: it may have been too large for the topic, and gone since."""
    return answer.text is None or answer.text.inline is not None


def repeated(answer: Answer, recorded: Sequence[Told]) -> Iterator[list[str]]:
    """For each recorded score of an answer, in order, the names of what differs when it is made again."""
    taken = material(answer)
    for one in recorded:
        again = told(_again(taken, one))
        yield [field.name for field in fields(Told) if getattr(again, field.name) != getattr(one, field.name)]


def _again(taken: Material, recorded: Told) -> Score:
    if recorded.name == FORMAT[0]:
        return form(taken)
    bounds = _BOUNDS.search(recorded.explanation)
    least, most = (int(bounds[1]), int(bounds[2])) if bounds else (0, 0)
    return length(taken, least=least, most=most)
