"""What a route does beyond asking one model once: check a cheap one before a stronger one, and fan a request out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from processors.complete.routes import Deployment, Group, Route

Aggregate = Literal["vote", "best", "join"]
Scorer = Literal["groundedness", "relevance"]
Class = Literal["simple", "balanced", "complex"]
Question = Literal["lookup", "open", "reasoning", "code", "analysis"]
# From the easiest to the hardest.
CLASSES: tuple[Class, ...] = ("simple", "balanced", "complex")
EFFORTS: Mapping[str, Class] = MappingProxyType(
    {
        "none": "simple",
        "minimal": "simple",
        "low": "simple",
        "medium": "balanced",
        "high": "complex",
        "xhigh": "complex",
    }
)
QUESTIONS: Mapping[Question, Class] = MappingProxyType(
    {"lookup": "simple", "open": "balanced", "reasoning": "balanced", "code": "complex", "analysis": "complex"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadePolicy:
    """When the reply of the route's own deployments is not good enough, and who is asked then.

    ``groups`` are asked in order, each once; the replies of all but the last are checked. ``phrases`` are beginnings of
    refusals beside the shipped ones. ``least_groundedness`` None: not checked. With less than ``least_time_s`` left no
    stronger model is asked. ``check_timeout_s`` bounds what groundedness waits for embeddings.
    """

    groups: tuple[Group, ...]
    refusal: bool = True
    phrases: tuple[str, ...] = ()
    format: bool = True
    least_words: int = 0
    least_groundedness: float | None = None
    least_time_s: float = 10.0
    check_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutPolicy:
    """How many calls are made for one request, and how one answer is made of their replies.

    ``samples`` calls at the route's own deployments, or one at each of ``members``. ``needed`` of them have to be
    answered. ``field`` is what a vote counts in JSON, as names with dots between them; ``scorer`` chooses the best;
    texts are joined with ``separator`` between them, or as a JSON list with ``as_json``.
    """

    aggregate: Aggregate
    samples: int = 0
    members: tuple[Deployment, ...] = ()
    needed: int = 1
    field: str | None = None
    scorer: Scorer = "groundedness"
    separator: str = "\n\n"
    as_json: bool = False
    score_timeout_s: float = 10.0

    @property
    def size(self) -> int:
        """How many calls are made."""
        return len(self.members) or self.samples


@dataclass(frozen=True, slots=True, kw_only=True)
class ComplexityPolicy:
    """How a request's class is told, and the route that each class takes; a class without one stays at the route.

    ``targets`` are the routes as the settings name them. A prompt of up to ``simple_tokens`` asks for simple, of
    ``complex_tokens`` and more for complex; ``questions`` and ``efforts`` are what types of question and reasoning
    efforts ask for, ``words`` more words for the types. A spread of the passages' scores under ``balanced_spread`` asks
    for balanced, under ``complex_spread`` for complex.
    """

    routes: Mapping[str, Route] = field(default_factory=dict, hash=False)
    targets: Mapping[str, str] = field(default_factory=dict, hash=False)
    simple_tokens: int = 1000
    complex_tokens: int = 4000
    balanced_spread: float = 0.02
    complex_spread: float = 0.0
    efforts: Mapping[str, Class] = field(default_factory=lambda: EFFORTS, hash=False)
    questions: Mapping[Question, Class] = field(default_factory=lambda: QUESTIONS, hash=False)
    words: Mapping[Question, tuple[str, ...]] = field(default_factory=dict, hash=False)
