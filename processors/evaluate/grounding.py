"""Is the answer in its passages: by meaning (embeddings, sentence by sentence) and by its very words and numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from processors.embeddings import Vector
from processors.evaluate.material import Material
from processors.evaluate.scores import scored, unscored
from schemas.records import Score

GROUNDEDNESS = ("groundedness", "sentence-cosine", "1")
SUPPORT = ("support", "word-overlap", "1")

_WORD = re.compile(r"\w+")
# Shorter words are mostly grammar; a number counts however short it is.
_LEAST_CHARS = 4


def ungroundable(score: tuple[str, str, str], material: Material, *, model: str = "") -> Score | None:
    """The score that says why there can be none, or ``None`` where there can."""
    if material.text is None:
        return unscored(*score, "no_text", "the answer has no text that can be read here", model=model)
    if material.response_format != "text":
        return unscored(*score, "structured", "the answer is JSON, which has no sentences", model=model)
    if not material.sentences:
        return unscored(*score, "no_sentences", "the answer holds no word", model=model)
    if material.unreadable:
        return unscored(*score, "unsupported_text", "the passages' texts can't be read here", model=model)
    if not material.evidence:
        return unscored(*score, "no_passages", "no passage was shown to the model", model=model)
    return None


def groundedness(
    material: Material, answered: Sequence[Vector], evidence: Sequence[Vector], *, minimum: float, model: str
) -> Score:
    """The mean over the answer's sentences of the best cosine to any sentence of the passages.

    ``answered`` and ``evidence`` are the vectors of ``material``'s sentences. ``minimum`` only decides which sentences
    are named as ungrounded.
    """
    cosines = _unit(answered) @ _unit(evidence).T
    best = np.clip(cosines.max(axis=1), 0.0, 1.0)
    nearest = [material.evidence[index][0] for index in cosines.argmax(axis=1)]
    weak = int((best < minimum).sum())
    last = int(best.argmin())
    sentence = material.sentences[last]
    why = (
        f"least grounded: sentence {last + 1} (characters {sentence.start} to {sentence.end}), "
        f"{best[last]:.2f} to passage {nearest[last]}; {weak} of {len(best)} under {minimum:g}"
    )
    return scored(*GROUNDEDNESS, float(best.mean()), why + _left_out(material), model=model)


def support(material: Material) -> Score:
    """The mean over the answer's sentences of the share of their words and numbers that some passage holds."""
    impossible = ungroundable(SUPPORT, material)
    if impossible is not None:
        return impossible
    there = {word for _, text in material.evidence for word in _words(text)}
    shares, numbers = [], 0
    for sentence in material.sentences:
        said = [word for word in _words(sentence.text) if len(word) >= _LEAST_CHARS or word.isdigit()]
        numbers += sum(word.isdigit() and word not in there for word in said)
        shares.append(sum(word in there for word in said) / len(said) if said else 1.0)
    last = shares.index(min(shares))
    sentence = material.sentences[last]
    why = (
        f"least supported: sentence {last + 1} (characters {sentence.start} to {sentence.end}), "
        f"{shares[last]:.0%} of its words; {numbers} numbers that no passage holds"
    )
    return scored(*SUPPORT, sum(shares) / len(shares), why + _left_out(material))


def cosine(one: Vector, other: Vector) -> float:
    """The cosine of two vectors, -1 to 1."""
    pair = _unit([one, other])
    return float(pair[0] @ pair[1])


def _unit(vectors: Sequence[Vector]) -> Vector:
    stacked = np.stack(vectors).astype(np.float32)
    unit: Vector = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
    return unit


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _left_out(material: Material) -> str:
    return f"; {material.left_out} sentences were left out" if material.left_out else ""
