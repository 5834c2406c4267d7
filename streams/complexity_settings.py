"""The settings of a route's classes: how hard requests are told apart, and where each class goes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from processors.complete.policies import CLASSES, EFFORTS, QUESTIONS, Class, Question
from streams.credentials import Section

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Worded = Literal["lookup", "reasoning", "code", "analysis"]
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class ComplexitySettings(Section):
    """Rules by which requests are simple, balanced or complex. A request that names a model is not bound by them.

    A class goes to deployments, by name or as ``tag/TAG``, or to another route, as ``route/NAME``; one that is left out
    stays at the route.
    """

    simple: tuple[str, ...] = ()
    balanced: tuple[str, ...] = ()
    complex: tuple[str, ...] = ()
    # Estimated tokens of the whole prompt: up to the first a request may be simple, from the second on it is complex.
    simple_tokens: int = Field(default=1000, ge=0, le=10_000_000)
    complex_tokens: int = Field(default=4000, ge=1, le=10_000_000)
    # Best less worst score of the passages: under this it is not simple, under the second it is complex.
    balanced_spread: float = Field(default=0.02, ge=0, le=2)
    complex_spread: float = Field(default=0.0, ge=0, le=2)
    # What a reasoning effort that was asked for, and a type of question, ask for; those left out as shipped.
    efforts: dict[Effort, Class] = Field(default_factory=dict)
    questions: dict[Question, Class] = Field(default_factory=dict)
    # More words and phrases by which a type of question is told; of a lookup, what it begins with.
    words: dict[Worded, Annotated[tuple[Word, ...], Field(max_length=500)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _cross_check(self) -> ComplexitySettings:
        if not self.targets():
            raise ValueError(f"sends no class anywhere; set one of {', '.join(CLASSES)}")
        if self.simple_tokens >= self.complex_tokens:
            raise ValueError("simple_tokens has to be less than complex_tokens")
        if self.complex_spread > self.balanced_spread:
            raise ValueError("complex_spread has to be at most balanced_spread")
        return self

    def targets(self) -> dict[Class, tuple[str, ...]]:
        """Where each class goes; classes that stay are left out."""
        every: dict[Class, tuple[str, ...]] = {
            "simple": self.simple,
            "balanced": self.balanced,
            "complex": self.complex,
        }
        return {name: names for name, names in every.items() if names}

    def all_efforts(self) -> dict[str, Class]:
        """What every effort asks for."""
        return {**EFFORTS, **{str(effort): name for effort, name in self.efforts.items()}}

    def all_questions(self) -> dict[Question, Class]:
        """What every type of question asks for."""
        return {**QUESTIONS, **self.questions}
