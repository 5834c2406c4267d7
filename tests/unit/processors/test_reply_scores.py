"""Scores of replies before they are answers: the same as those of the evaluate stage, paid for by the request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from processors.embeddings import HashingEmbedder, Vector
from processors.evaluate.replies import EmbeddingScorer
from processors.event import Incoming
from processors.spending.payer import Payer
from schemas.records import Enrichment, Passage, ResponseFormat, Text
from tests.support.completing import CODEC, event
from tests.support.enrichments import incoming

FACTS = ("Kafka keeps an offset for every group.", "The lamp takes an E27 bulb of forty watts.")


class Heard(HashingEmbedder):
    """Remembers who paid."""

    def __init__(self) -> None:
        super().__init__()
        self.payers: list[Payer | None] = []

    async def embed(self, texts: Sequence[str], payers: Sequence[Payer | None] = ()) -> list[Vector]:
        assert len(payers) == len(texts)
        self.payers += payers
        return await super().embed(texts, payers)


def asked(**wanted: Any) -> Incoming[Enrichment]:
    passages = tuple(
        Passage(
            passage_id=f"p{number}",
            document_id="d",
            namespace="docs",
            number=number,
            digest="0" * 64,
            score=0.5,
            text=Text(inline=text),
        )
        for number, text in enumerate(FACTS, start=1)
    )
    record = event(**wanted).record
    return incoming(replace(record, grounding=replace(record.grounding, passages=passages)), CODEC)


async def test_what_the_passages_say_is_more_grounded_than_what_they_do_not() -> None:
    embedder = Heard()
    scorer = EmbeddingScorer(embedder)
    near = await scorer.score("groundedness", "The lamp takes an E27 bulb [2].", asked())
    far = await scorer.score("groundedness", "Bananas ripen faster in paper bags.", asked())
    assert near.value is not None and far.value is not None and near.value > 0.7 > far.value
    assert {(payer.stage, payer.team, payer.route) for payer in embedder.payers if payer} == {
        ("complete", "search", "default")
    }


async def test_relevance_is_nearness_to_the_question() -> None:
    scorer = EmbeddingScorer(Heard())
    near = await scorer.score("relevance", "A coroutine is what you await.", asked())
    far = await scorer.score("relevance", "Bananas ripen faster.", asked())
    assert near.value is not None and far.value is not None and near.value > far.value


@pytest.mark.parametrize(
    ("incoming_", "text", "code"),
    [
        (event(), "A text.", "no_passages"),
        (asked(), "...", "no_sentences"),
        (asked(response_format=ResponseFormat(type="json_object")), "{}", "structured"),
    ],
)
async def test_what_can_not_be_told_says_why(incoming_: Incoming[Enrichment], text: str, code: str) -> None:
    embedder = Heard()
    score = await EmbeddingScorer(embedder).score("groundedness", text, incoming_)
    assert (score.value, score.failure_code) == (None, code) and not embedder.embedded
