"""What the semantic cache serves wrongly on real look-alikes, and what an exact one saves on a real trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from processors.embeddings import Vector
from processors.event import Recorded
from processors.spending.payer import Payer
from schemas.records import Completion
from tests.bench.caches import Asked, questions, trace
from tests.support.caching import ON, CacheBench
from tests.support.completing import event

embedding_model = pytest.importorskip("infra.embedded.embedding_model")


class Bundled:
    """The model that the embedded stack serves, in this process."""

    model, dimension = "all-minilm-l6-v2", 384

    def __init__(self) -> None:
        self._model = embedding_model.EmbeddingModel()

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:
        return [np.asarray(vector) for vector in self._model.embed(texts).vectors]


async def served(asked: Sequence[Asked], similarity: float) -> tuple[int, list[tuple[str, str]]]:
    """How many of the questions, one after the other, get an earlier one's answer; and who gets a wrong one."""
    bench = CacheBench(replace(ON, semantic=True, similarity=similarity))
    bench.embedder = Bundled()
    stage = bench.worker()
    by_event: dict[str, Asked] = {}
    hits, wrong = 0, []
    for number, question in enumerate(asked):
        *_, last = await stage(event(f"r{number}", text=question.text))
        completion = last.record if isinstance(last, Recorded) else last
        assert isinstance(completion, Completion)
        by_event[completion.meta.event_id] = question
        if completion.source_event_id is not None:
            hits += 1
            original = by_event[completion.source_event_id]
            if original.answer != question.answer:
                wrong.append((question.text, original.text))
    return hits, wrong


@pytest.mark.parametrize(
    ("name", "similarity", "hits", "most_wrong"),
    [
        # Other diseases, and other aspects of the same one.
        ("rag_medquad", 0.95, 0, 0),
        ("rag_medquad", 0.9, 4, 4),
        # Two names that differ in a digit; and one question that is about different code each time.
        ("code questions", 0.95, 2, 2),
    ],
)
async def test_wrong_hits_are_as_few_as_the_page_says(
    shared_data: Path, name: str, similarity: float, hits: int, most_wrong: int
) -> None:
    asked = dict(questions(shared_data))[name]
    found, wrong = await served(asked, similarity)
    assert (found, len(wrong)) == (hits, most_wrong), wrong


def test_an_exact_cache_saves_on_the_trace_what_the_page_says(shared_data: Path) -> None:
    saved = trace(shared_data)
    assert (saved["requests"], saved["exact_hits"]) == (12_031, 118)
    assert saved["prompt_tokens_in_known_prefixes"] == pytest.approx(0.374, abs=0.001)
