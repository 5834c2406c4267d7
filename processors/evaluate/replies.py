"""Scores a model's reply before it becomes an answer: for routes that decide by it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from processors.complete import STAGE, VERSION
from processors.complete.policies import Scorer
from processors.embeddings import Embedder
from processors.evaluate.grounding import GROUNDEDNESS, cosine, groundedness, ungroundable
from processors.evaluate.material import Material, material_of
from processors.evaluate.scores import scored, unscored
from processors.evaluate.scoring import RELEVANCE, incomparable, start
from processors.event import Incoming
from processors.filter.tokens import strip_tokens
from processors.spending.payer import Payer, payer_of
from schemas.records import Enrichment, Score

# Only decides which sentences an explanation names.
_MINIMUM_COSINE = 0.6


class ReplyScorer(Protocol):
    """Scores one text as the answer to one enrichment."""

    async def score(self, name: Scorer, text: str, asked: Incoming[Enrichment]) -> Score:
        """The score of that name, without a value where it can't be told; see ``failure_code`` then.

        Blocks on the embedding endpoint once at most. Raises ``DependencyDownError`` and ``ProviderError`` of it.
        """
        ...


class EmbeddingScorer:
    """The scores of the evaluate stage: sentences against passages, question against answer."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    async def score(self, name: Scorer, text: str, asked: Incoming[Enrichment]) -> Score:
        request, grounding = asked.record.request, asked.record.grounding
        # Long passages take milliseconds to be taken apart: not on the loop that keeps leases.
        material = await asyncio.to_thread(
            material_of,
            strip_tokens(text).text,
            grounding.question.inline,
            grounding.passages,
            response_format=request.response_format.type,
        )
        payer = payer_of(
            asked.meta,
            request,
            asked.record.admission,
            stage=STAGE,
            version=VERSION,
            prompt_version=grounding.prompt_version,
        )
        return await (self._groundedness if name == "groundedness" else self._relevance)(material, payer)

    async def _groundedness(self, material: Material, payer: Payer) -> Score:
        model = self._embedder.model
        impossible = ungroundable(GROUNDEDNESS, material, model=model)
        if impossible is not None:
            return impossible
        said = [sentence.text for sentence in material.sentences]
        texts = [*said, *(text for _, text in material.evidence)]
        vectors = await self._embedder.embed(texts, [payer] * len(texts))
        answered, evidence = vectors[: len(said)], vectors[len(said) :]
        return groundedness(material, answered, evidence, minimum=_MINIMUM_COSINE, model=model)

    async def _relevance(self, material: Material, payer: Payer) -> Score:
        model = self._embedder.model
        impossible = incomparable(material, model)
        if impossible is not None:
            return impossible
        texts = [start(material.question), start(material.text)]
        question, text = await self._embedder.embed(texts, [payer, payer])
        value = cosine(question, text)
        return scored(*RELEVANCE, value, f"cosine of question and answer: {value:.2f}", model=model)


@dataclass
class FixedScorer:
    """Fake: scores by text, none for others; ``failure`` is raised by every call while it is set."""

    values: Mapping[str, float] = field(default_factory=dict)
    failure: Exception | None = None
    scored: list[tuple[str, str, str]] = field(default_factory=list)

    async def score(self, name: Scorer, text: str, asked: Incoming[Enrichment]) -> Score:
        self.scored.append((name, text, asked.meta.request_id))
        if self.failure is not None:
            raise self.failure
        if text not in self.values:
            return unscored(name, "fixed", "1", "no_passages", "no passage was shown to the model")
        return scored(name, "fixed", "1", self.values[text], "as it was told")
