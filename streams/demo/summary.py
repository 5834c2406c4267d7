"""What came of the requests: counts, latency by stage with waiting and service apart, tokens and cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from schemas.records import Answer

# The five ways to end, as the summary counts them.
_COUNTED = {
    "answered": "answered",
    "rejected": "rejected",
    "blocked": "rejected",
    "failed": "failed",
    "expired": "failed",
}
VERSIONS = ("kafka", "registry", "postgres", "pgvector", "model", "embedding")


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Milliseconds; None where there was nothing to measure."""

    p50: float | None
    p95: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Quantiles:
        found = sorted(values)
        return cls(_nearest_rank(found, 50), _nearest_rank(found, 95))

    def to_json(self) -> dict[str, float | None]:
        return {"p50": self.p50, "p95": self.p95}


@dataclass(frozen=True, slots=True)
class Arrival:
    """An answer, and how long after its request was published it was there."""

    answer: Answer
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Of ``requests``, every one is in exactly one of ``answered``, ``rejected``, ``failed`` and ``lost``.

    ``rejected`` counts what a guard blocked too, ``failed`` what expired.
    """

    requests: int
    answered: int
    rejected: int
    failed: int
    lost: int
    latency: Quantiles
    waited: Mapping[str, Quantiles]
    service: Mapping[str, Quantiles]
    prompt_tokens: int
    completion_tokens: int
    cost_usd: Decimal
    citations_per_answer: float | None

    @property
    def good(self) -> bool:
        """Whether nothing was lost and something was answered."""
        return self.lost == 0 and self.answered > 0

    def to_json(self, versions: Mapping[str, str]) -> dict[str, Any]:
        """The object that ``--json`` prints. ``cost_usd`` is a decimal number in a string: money is never a float."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "rejected": self.rejected,
            "failed": self.failed,
            "lost": self.lost,
            "latency_ms": self.latency.to_json(),
            "stages": {
                stage: {"waited_ms": self.waited[stage].to_json(), "service_ms": self.service[stage].to_json()}
                for stage in self.waited
            },
            "tokens": {"prompt": self.prompt_tokens, "completion": self.completion_tokens},
            "cost_usd": plain_number(self.cost_usd),
            "citations_per_answer": self.citations_per_answer,
            "versions": {name: versions.get(name, "") for name in VERSIONS},
        }


def summarise(request_ids: Iterable[str], arrivals: Iterable[Arrival]) -> Summary:
    """Count each request once, by its first answer; what has none is lost."""
    asked = set(request_ids)
    first: dict[str, Arrival] = {}
    for arrival in arrivals:
        if arrival.answer.meta.request_id in asked:
            first.setdefault(arrival.answer.meta.request_id, arrival)
    answers = [arrival.answer for arrival in first.values()]
    counts = {"answered": 0, "rejected": 0, "failed": 0}
    for answer in answers:
        counts[_COUNTED[answer.status]] += 1
    timings = [timing for answer in answers for timing in answer.timings]
    stages = list(dict.fromkeys(timing.stage for timing in timings))
    citations = [len(answer.citations) for answer in answers if answer.status == "answered"]
    return Summary(
        requests=len(asked),
        **counts,
        lost=len(asked) - len(first),
        latency=Quantiles.of(arrival.latency_ms for arrival in first.values()),
        waited={stage: Quantiles.of(t.waited_ms for t in timings if t.stage == stage) for stage in stages},
        service={stage: Quantiles.of(t.service_ms for t in timings if t.stage == stage) for stage in stages},
        prompt_tokens=sum(answer.usage.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.usage.completion_tokens for answer in answers),
        cost_usd=sum((answer.cost_usd for answer in answers), Decimal(0)),
        citations_per_answer=round(sum(citations) / len(citations), 2) if citations else None,
    )


def plain_number(amount: Decimal) -> str:
    """The amount without exponent and trailing zeros."""
    return f"{amount.normalize():f}"


def _nearest_rank(ordered: Sequence[float], percent: int) -> float | None:
    """A value that was measured, not one between two: there are too few for that to mean anything."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)], 1)
