"""Making a ``Score``: a value and why, or why there is none."""

from __future__ import annotations

from schemas.records import Score, Text

# More digits than a score has meaning; rounding hides the last bits of an embedding endpoint's arithmetic.
_DIGITS = 4


def scored(name: str, scorer: str, version: str, value: float, why: str, *, model: str = "") -> Score:
    """A score from 0 to 1. ``why`` holds places and figures, never a text."""
    bounded = round(min(1.0, max(0.0, value)), _DIGITS)
    return Score(
        name=name, scorer=scorer, scorer_version=version, value=bounded, explanation=Text(inline=why), model=model
    )


def unscored(name: str, scorer: str, version: str, code: str, why: str, *, model: str = "") -> Score:
    """No score, and why."""
    return Score(
        name=name,
        scorer=scorer,
        scorer_version=version,
        failure_code=code,
        explanation=Text(inline=why),
        model=model,
    )
