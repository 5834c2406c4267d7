"""How hard requests are taken to be, and where each class goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from processors.complete.complexity import complexity_of, question_of, route_of_class
from processors.complete.policies import ComplexityPolicy
from processors.complete.routes import Group
from processors.event import Recorded
from schemas.errors import PermanentProviderError
from schemas.records import Completion, Enrichment, Passage, Text
from tests.support.completing import CODEC, Bench, event
from tests.support.enrichments import incoming
from tests.unit.processors.test_complete_routes import deployment, down

POLICY = ComplexityPolicy()


def asked(
    question: str = "what is it?", *, tokens: int = 100, effort: str | None = None, scores: tuple[float, ...] = ()
) -> Enrichment:
    record = event().record
    passages = tuple(
        Passage(passage_id=f"p{n}", document_id="d", namespace="n", digest="x", score=score, text=Text(inline="t"))
        for n, score in enumerate(scores)
    )
    grounding = replace(
        record.grounding, question=Text(inline=question), prompt_tokens_estimate=tokens, passages=passages
    )
    request = replace(record.request, sampling=replace(record.request.sampling, reasoning_effort=effort))
    return replace(record, grounding=grounding, request=request)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Who wrote it?", "lookup"),
        ("  «When does the shop open?»", "lookup"),
        ("How many lamps are there", "lookup"),
        ("who " + "and who " * 15 + "wrote it?", "open"),
        ("Tell me of lamps.", "open"),
        ("", "open"),
        ("Why does the lamp flicker?", "reasoning"),
        ("What happens, and how would one mend it?", "reasoning"),
        ("Compare the two lamps.", "analysis"),
        ("What are the PROS AND CONS of it?", "analysis"),
        ("Explain why and compare both", "analysis"),
        ("What does this function do?", "code"),
        ("mend it\n```\nx = 1\n```", "code"),
        ("Name the trade-off of it.", "analysis"),
        ("Walk me through it step-by-step", "reasoning"),
        ("Paste this: " + "x " * 3000 + "and compare it", "open"),
        # Words, not parts of words.
        ("Is the planet round?", "lookup"),
        ("The zipcode is wrong", "open"),
    ],
)
def test_the_type_of_a_question_is_told_by_its_words(text: str, kind: str) -> None:
    assert question_of(text, POLICY) == kind


def test_more_words_may_be_given_for_a_type() -> None:
    policy = ComplexityPolicy(words={"analysis": ("vergleiche",), "lookup": ("wer",)})
    assert question_of("Vergleiche die Lampen", policy) == "analysis"
    assert question_of("Wer war es?", policy) == "lookup"
    assert question_of("WÄGE AB", ComplexityPolicy(words={"analysis": ("wäge ab", "!?")})) == "analysis"
    assert question_of("Wer war es?", POLICY) == "open"


@pytest.mark.parametrize(
    ("record", "name", "reasons"),
    [
        (asked(), "simple", {"reasoning_effort", "prompt_tokens", "question", "spread"}),
        (asked(tokens=1000), "simple", None),
        (asked(tokens=1001), "balanced", {"prompt_tokens"}),
        (asked(tokens=4000), "complex", {"prompt_tokens"}),
        (asked("Tell me of lamps."), "balanced", {"question"}),
        (asked("Compare them."), "complex", {"question"}),
        (asked("Compare them.", effort="high"), "complex", {"question", "reasoning_effort"}),
        (asked("Compare them.", effort="low"), "complex", {"question"}),
        (asked(effort="medium"), "balanced", {"reasoning_effort"}),
        (asked(effort="unheard of"), "simple", None),
        (asked(scores=(0.5, 0.9)), "simple", None),
        (asked(scores=(0.5, 0.51, 0.505)), "balanced", {"spread"}),
        (asked(scores=(0.5,)), "simple", None),
    ],
)
def test_the_hardest_of_the_features_decides(record: Enrichment, name: str, reasons: set[str] | None) -> None:
    found = complexity_of(record, POLICY)
    assert found.name == name and (reasons is None or set(found.reasons) == reasons)
    assert complexity_of(CODEC.decode(CODEC.encode(record), Enrichment), POLICY) == found


def test_the_rules_are_the_settings() -> None:
    policy = ComplexityPolicy(
        simple_tokens=10,
        complex_tokens=50,
        complex_spread=0.01,
        questions={"lookup": "balanced"},
        efforts={"high": "balanced"},
        targets={"complex": "route/strong"},
    )
    assert complexity_of(asked(tokens=9), policy).name == "balanced"
    assert complexity_of(asked(tokens=9, effort="high"), policy).name == "balanced"
    alike = complexity_of(asked(tokens=9, scores=(0.5, 0.505)), policy)
    assert (alike.name, alike.reasons, alike.target, alike.passages) == ("complex", ("spread",), "route/strong", 2)
    assert alike.spread == pytest.approx(0.005)


class Classes(Bench):
    """Simple questions go to ``cheap``, complex ones to another route with ``dear`` and its fallback ``spare``."""

    def __init__(self) -> None:
        super().__init__()
        main = replace(self.route, deployment=deployment("main"), patience_s=0.0)
        strong = replace(
            main,
            deployment=deployment("dear"),
            fallbacks={"outage": (Group(deployments=(deployment("spare"),)),)},
            max_attempts=1,
        )
        routes = {"simple": replace(main, deployment=deployment("cheap")), "complex": strong}
        policy = ComplexityPolicy(routes=routes, targets={"simple": "cheap", "complex": "route/strong"})
        self.route = replace(main, complexity=policy)
        self.classes: list[str] = []
        self.heard.on_complexity = lambda route, name: self.classes.append(name)  # type: ignore[method-assign]

    async def answer(self, record: Enrichment, **options: Any) -> Completion:
        *_, last = await self.worker(**options)(incoming(record, CODEC))
        assert isinstance(last, Recorded) and isinstance(last.record, Completion)
        return last.record


@pytest.mark.parametrize(
    ("record", "name", "where", "target"),
    [
        (asked(), "simple", "cheap", "cheap"),
        (asked("Tell me of lamps."), "balanced", "main", ""),
        (asked("Compare them."), "complex", "dear", "route/strong"),
    ],
)
async def test_each_class_has_its_deployments_and_the_completion_says_why(
    record: Enrichment, name: str, where: str, target: str
) -> None:
    scene = Classes()
    completion = await scene.answer(record)
    assert completion.deployment == where and scene.classes == [name]
    assert completion.complexity is not None
    assert (completion.complexity.name, completion.complexity.target) == (name, target)
    assert (completion.complexity.prompt_tokens, completion.complexity.requested) == (100, False)
    # A replay tells the same from the enrichment that was recorded.
    policy = scene.route.complexity
    assert policy is not None and complexity_of(record, policy) == completion.complexity
    # Booked under the route that was asked for.
    [[row]] = scene.journal.attempts.values()
    assert (row.target.route, row.target.deployment) == ("default", where)
    assert await scene.answer(record, owner="w2") == completion and len(scene.model.calls) == 1


async def test_a_class_falls_back_as_its_route_does() -> None:
    scene = Classes()
    scene.fail_with(down())
    completion = await scene.answer(asked("Compare them."))
    assert [call.deployment for call in scene.model.calls] == ["dear", "spare"] and completion.deployment == "spare"


@pytest.mark.parametrize(("model", "where"), [("model-main", "main"), ("model-dear", "dear"), ("model-cheap", "cheap")])
async def test_a_model_that_is_asked_for_wins_over_the_class(model: str, where: str) -> None:
    scene, record = Classes(), asked("Tell me of lamps.")
    completion = await scene.answer(replace(record, request=replace(record.request, model=model)))
    assert completion.deployment == where
    assert completion.complexity is not None and completion.complexity.requested
    assert completion.complexity.name == "balanced"


async def test_a_model_that_no_class_has_is_refused() -> None:
    scene, record = Classes(), asked()
    with pytest.raises(PermanentProviderError, match="does not offer the model"):
        await scene.answer(replace(record, request=replace(record.request, model="another")))


def test_a_route_without_rules_is_what_it_was() -> None:
    route = Bench().route
    assert route_of_class(route, asked()) is route
