"""How well the scores agree with people's labels, on data that is not ours. The full figures: docs/evaluation.md.

``python -m tests.contract.test_scores_data`` prints them for all rows (about a minute).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra.embedded.embedding_model import DIMENSION, MODEL_NAME, EmbeddingModel
from processors.embeddings import Vector
from processors.evaluate.material import material
from processors.evaluate.policy import EvaluatePolicy
from processors.evaluate.scoring import score
from processors.spending.payer import Payer
from schemas.records import Answer, Meta, Passage, Text

QAGS = "judge_labels/public/groundedness_qags.jsonl"
HALUEVAL = "judge_labels/public/halueval_general.jsonl"
GROUNDED_POLICY = EvaluatePolicy(relevance=False, length=False, format=False)
RELEVANT_POLICY = EvaluatePolicy(groundedness=False, support=False, length=False, format=False)


class Local:
    """The embedded stack's model in this process."""

    model, dimension = MODEL_NAME, DIMENSION

    def __init__(self) -> None:
        self._model = EmbeddingModel()

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:
        return list(self._model.embed(texts).vectors)


@dataclass(frozen=True)
class Rated:
    """A row with its scores by name, and whether people found it good."""

    good: bool
    values: dict[str, float]


def rows(data: Path, name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines()]


def auc(rated: Sequence[Rated], name: str) -> float:
    """The chance that a good one scores above a bad one; equal scores count half."""
    good = np.array([one.values[name] for one in rated if one.good])
    bad = np.array([one.values[name] for one in rated if not one.good])
    above = (good[:, None] > bad[None, :]).mean()
    return float(above + (good[:, None] == bad[None, :]).mean() / 2)


def scores(question: str, text: str, source: str, policy: EvaluatePolicy, embedder: Local) -> dict[str, float]:
    passage = Passage(
        passage_id="p", document_id="d", namespace="n", number=1, digest="", score=1, text=Text(inline=source)
    )
    meta = Meta(event_id="e", request_id="r", tenant="t", lane="l")
    answer = Answer(
        meta=meta,
        status="answered",
        question=Text(inline=question),
        text=Text(inline=text),
        passages=(passage,),
    )
    found = asyncio.run(score(material(answer), embedder, policy, Payer(meta=meta, stage="evaluate", version="1")))
    return {one.name: one.value for one in found if one.value is not None}


def grounded(data: Path, kind: str, limit: int | None = None, policy: EvaluatePolicy = GROUNDED_POLICY) -> list[Rated]:
    """Summaries of news: good where every annotator found every sentence consistent with its source."""
    embedder = Local()
    chosen = [row for row in rows(data, QAGS) if kind in str(row["id"])][:limit]
    return [
        Rated(row["human_consistency"] == 1.0, scores("", str(row["output"]), str(row["source"]), policy, embedder))
        for row in chosen
    ]


def relevant(data: Path, limit: int | None = None) -> list[Rated]:
    """Questions with their own answer, and with the answer to another question."""
    embedder = Local()
    chosen = rows(data, HALUEVAL)[:limit]
    found = []
    for number, row in enumerate(chosen):
        other = chosen[(number + 7) % len(chosen)]
        for good, text in ((True, row), (False, other)):
            said = str(text["chatgpt_response"])
            found.append(Rated(good, scores(str(row["user_query"]), said, "", RELEVANT_POLICY, embedder)))
    return [one for one in found if one.values]


def test_groundedness_tells_consistent_summaries_of_several_sentences_from_others(shared_data: Path) -> None:
    rated = grounded(shared_data, "cnndm", 45)
    assert {one.good for one in rated} == {True, False}
    assert auc(rated, "groundedness") > 0.7


def test_support_sees_invented_words_where_meaning_does_not(shared_data: Path) -> None:
    words = EvaluatePolicy(groundedness=False, relevance=False, length=False, format=False)
    assert auc(grounded(shared_data, "xsum", policy=words), "support") > 0.65
    assert auc(grounded(shared_data, "qags", policy=words), "support") > 0.6


def test_relevance_tells_an_answer_to_the_question_from_one_to_another(shared_data: Path) -> None:
    assert auc(relevant(shared_data, 60), "relevance") > 0.95


if __name__ == "__main__":
    data = Path(__file__).parents[3] / "shared" / "data"
    for kind in ("cnndm", "xsum", "qags"):
        rated = grounded(data, kind)
        figures = {name: round(auc(rated, name), 3) for name in ("groundedness", "support")}
        print(kind, len(rated), "rows,", sum(one.good for one in rated), "good", figures)  # noqa: T201
    rated = relevant(data)
    print("relevance", len(rated), round(auc(rated, "relevance"), 3))  # noqa: T201
