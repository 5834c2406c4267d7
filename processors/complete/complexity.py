"""How hard a request is taken to be: simple, balanced or complex, from its enrichment alone.

The same enrichment and settings give the same class, whenever and wherever it is asked for. Each feature asks for a
class, and the hardest of them is taken: a request is simple only where nothing speaks against it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from processors.complete.policies import CLASSES, ComplexityPolicy, Question
from processors.complete.routes import Route
from schemas.records import Complexity, Enrichment, Passage

# Longer than any question of its kind: what begins like one and goes on tells a story first.
_LOOKUP_WORDS = 20
# The beginning of a text tells what it is; what is pasted behind it does not.
_READ_CHARS = 2_000
_CHARS_PER_TOKEN = 4
_WORD = re.compile(r"\w+")

# By type, in this order: the first that has one of its words or phrases in the question. Of a lookup they begin it.
WORDS: dict[Question, tuple[str, ...]] = {
    "code": (
        "code",
        "function",
        "regex",
        "sql",
        "script",
        "stack trace",
        "traceback",
        "debug",
        "refactor",
        "unit test",
    ),
    "analysis": (
        *("compare", "comparison", "contrast", "analyse", "analyze", "analysis", "evaluate", "assess", "critique"),
        *("trade-off", "trade-offs", "pros and cons", "design", "plan", "strategy", "recommend"),
    ),
    "reasoning": (
        *("why", "explain", "prove", "derive", "calculate", "how does", "how do", "how would", "how should"),
        *("what if", "step by step"),
    ),
    "lookup": (
        *("who", "when", "where", "which", "what", "how many", "how much", "how long", "how old"),
        *("is", "are", "was", "were", "do", "does", "did", "can", "has", "have"),
    ),
}


def complexity_of(enrichment: Enrichment, policy: ComplexityPolicy) -> Complexity:
    """The request's class with the features that it was told by. Does not block."""
    grounding, effort = enrichment.grounding, enrichment.request.sampling.reasoning_effort
    text = grounding.question.inline or ""
    tokens = grounding.prompt_tokens_estimate or len(text) // _CHARS_PER_TOKEN
    question, spread = question_of(text, policy), spread_of(grounding.passages)
    asked = {
        "reasoning_effort": policy.efforts.get(effort, "simple") if effort is not None else "simple",
        "prompt_tokens": _by_tokens(tokens, policy),
        "question": policy.questions.get(question, "balanced"),
        "spread": _by_spread(spread, policy),
    }
    name = max(asked.values(), key=CLASSES.index)
    return Complexity(
        name=name,
        reasons=tuple(feature for feature, wanted in asked.items() if wanted == name),
        target=policy.targets.get(name, ""),
        requested=enrichment.request.model is not None,
        prompt_tokens=tokens,
        question=question,
        reasoning_effort=effort,
        passages=len(grounding.passages),
        spread=spread,
    )


def route_of_class(route: Route, enrichment: Enrichment) -> Route:
    """The route that the request takes: its class's, or the first that offers the model which it names."""
    policy, model = route.complexity, enrichment.request.model
    if policy is None:
        return route
    plain = replace(route, complexity=None)
    if model is None:
        return policy.routes.get(complexity_of(enrichment, policy).name, plain)
    ways = (plain, *(policy.routes[name] for name in CLASSES if name in policy.routes))
    return next((way for way in ways if any(one.model == model for one in way.own.deployments)), plain)


def question_of(text: str, policy: ComplexityPolicy) -> Question:
    """The type of a question, by its words."""
    read = text[:_READ_CHARS]
    if "```" in read:
        return "code"
    words = _WORD.findall(read.casefold())
    said, alone = f" {' '.join(words)} ", frozenset(words)
    for kind in WORDS:
        singles, phrases = _told_by(kind, policy.words.get(kind, ()))
        if kind == "lookup":
            if len(words) <= _LOOKUP_WORDS and ((words[:1] and words[0] in singles) or said.startswith(phrases)):
                return kind
        elif not singles.isdisjoint(alone) or any(phrase in said for phrase in phrases):
            return kind
    return "open"


def spread_of(passages: Sequence[Passage]) -> float | None:
    """The best less the worst score; ``None`` with fewer than two passages."""
    scores = [one.score for one in passages]
    return max(scores) - min(scores) if len(scores) > 1 else None


def _by_tokens(tokens: int, policy: ComplexityPolicy) -> str:
    if tokens >= policy.complex_tokens:
        return "complex"
    return "simple" if tokens <= policy.simple_tokens else "balanced"


def _by_spread(spread: float | None, policy: ComplexityPolicy) -> str:
    """Passages that are all alike: none of them stands out as the one that answers."""
    if spread is None or spread >= policy.balanced_spread:
        return "simple"
    return "complex" if spread < policy.complex_spread else "balanced"


@lru_cache(maxsize=256)
def _told_by(kind: Question, more: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The single words that tell a type, and the phrases, with a space before, between and behind their words."""
    every = [_WORD.findall(word.casefold()) for word in (*WORDS[kind], *more)]
    phrases = tuple(f" {' '.join(words)} " for words in every if len(words) > 1)
    return frozenset(words[0] for words in every if len(words) == 1), phrases
