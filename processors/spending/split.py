"""The tokens of a call that several askers share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def split(tokens: int, weights: Sequence[int]) -> list[int]:
    """``tokens`` in whole parts in proportion to ``weights``; together exactly ``tokens``. No weight is negative.

    Where all weights are 0 the first part has all of them.
    """
    if not weights:
        return []
    whole = sum(weights)
    if not whole:
        return [tokens, *[0] * (len(weights) - 1)]
    ends = [tokens * reached // whole for reached in accumulate(weights)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
