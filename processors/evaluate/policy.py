"""What is scored, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from processors.evaluate.sampling import SamplingPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatePolicy:
    """Which answers are sampled and which scorers run on them."""

    sampling: SamplingPolicy = field(default_factory=SamplingPolicy)
    groundedness: bool = True
    support: bool = True
    relevance: bool = True
    length: bool = True
    format: bool = True
    # A sentence whose best cosine is under it is named as ungrounded; the score does not depend on it.
    minimum_cosine: float = 0.6
    least_words: int = 3
    most_words: int = 400
