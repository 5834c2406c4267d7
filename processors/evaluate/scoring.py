"""Runs the scorers over one answer, with a single request to the embedder."""

from __future__ import annotations

from processors.embeddings import Embedder
from processors.evaluate.form import form, length
from processors.evaluate.grounding import GROUNDEDNESS, cosine, groundedness, support, ungroundable
from processors.evaluate.material import Material
from processors.evaluate.policy import EvaluatePolicy
from processors.evaluate.scores import scored, unscored
from processors.spending.payer import Payer
from schemas.records import Score

RELEVANCE = ("relevance", "question-cosine", "1")
# An embedding model reads some 250 tokens of a text.
_READ_CHARS = 1_000


async def score(material: Material, embedder: Embedder, policy: EvaluatePolicy, payer: Payer) -> tuple[Score, ...]:
    """Every scorer that the policy has on. Blocks on the embedder once, if at all; raises what it raises."""
    found: list[Score] = []
    grounded = ungroundable(GROUNDEDNESS, material, model=embedder.model) if policy.groundedness else None
    weigh = policy.groundedness and grounded is None
    said, evidence = len(material.sentences), len(material.evidence)
    relevant = incomparable(material, embedder.model) if policy.relevance else None
    compare = policy.relevance and relevant is None
    texts = embedded(material, policy)
    vectors = await embedder.embed(texts, [payer] * len(texts)) if texts else []
    if weigh:
        grounded = groundedness(
            material,
            vectors[:said],
            vectors[said : said + evidence],
            minimum=policy.minimum_cosine,
            model=embedder.model,
        )
    if compare:
        value = cosine(vectors[-2], vectors[-1])
        relevant = scored(*RELEVANCE, value, f"cosine of question and answer: {value:.2f}", model=embedder.model)
    found += [one for one in (grounded, relevant) if one is not None]
    if policy.support:
        found.append(support(material))
    if policy.length:
        found.append(length(material, least=policy.least_words, most=policy.most_words))
    if policy.format:
        found.append(form(material))
    return tuple(found)


def embedded(material: Material, policy: EvaluatePolicy) -> list[str]:
    """The texts that the policy's scorers embed: sentences, those of the passages, then question and answer."""
    texts: list[str] = []
    if policy.groundedness and ungroundable(GROUNDEDNESS, material) is None:
        texts += [sentence.text for sentence in material.sentences]
        texts += [text for _, text in material.evidence]
    if policy.relevance and incomparable(material, "") is None:
        texts += [start(material.question), start(material.text)]
    return texts


def incomparable(material: Material, model: str) -> Score | None:
    """The score that says why relevance can't be told, or ``None`` where it can."""
    if material.response_format != "text":
        return unscored(*RELEVANCE, "structured", "the answer is JSON, which is like no question", model=model)
    if not material.sentences:
        return unscored(*RELEVANCE, "no_text", "the answer has no text that can be read here", model=model)
    if not (material.question or "").strip():
        return unscored(*RELEVANCE, "no_question", "the question can't be read here", model=model)
    return None


def start(text: str | None) -> str:
    """As much of a text as an embedding model reads."""
    return (text or "")[:_READ_CHARS]
