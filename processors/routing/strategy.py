"""Which of several deployments that could take a call gets it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from processors.complete.routes import Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A deployment with room for a call. ``latency_s`` is ``None`` where none was measured for a while."""

    name: str
    weight: float
    busy: float
    latency_s: float | None
    cost_usd: Decimal


def choose(candidates: Sequence[Candidate], strategy: Strategy, random_: random.Random) -> Candidate:
    """One of them, at least one of which there has to be.

    ``weighted``: by chance, in proportion to the weights; one of weight 0 only where no other has room.
    ``least_busy``: the one with the smallest share of its limit in use. ``lowest_latency``: the one with the quickest
    first output of late; one that was not measured for a while goes first, or it would never be again. ``cheapest``:
    the one at which this very call can cost least. Among equals, by weight.
    """
    if len(candidates) == 1:
        return candidates[0]
    if strategy == "least_busy":
        best = min(one.busy for one in candidates)
        equal = [one for one in candidates if one.busy == best]
    elif strategy == "lowest_latency":
        unknown = [one for one in candidates if one.latency_s is None]
        quickest = min((one.latency_s for one in candidates if one.latency_s is not None), default=0.0)
        equal = unknown or [one for one in candidates if one.latency_s == quickest]
    elif strategy == "cheapest":
        least = min(one.cost_usd for one in candidates)
        equal = [one for one in candidates if one.cost_usd == least]
    else:
        equal = list(candidates)
    return _by_weight(equal, random_)


def _by_weight(candidates: Sequence[Candidate], random_: random.Random) -> Candidate:
    weights = [one.weight for one in candidates]
    if not any(weights):
        return random_.choice(candidates)
    return random_.choices(candidates, weights)[0]
