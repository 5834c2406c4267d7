"""What a route does beyond asking one model once: check a cheap one before a stronger one, and fan a request out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from processors.complete.routes import Deployment, Group

Aggregate = Literal["vote", "best", "join"]
Scorer = Literal["groundedness", "relevance"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadePolicy:
    """When the reply of the route's own deployments is not good enough, and who is asked then.

    ``groups`` are asked in order, each once; the replies of all but the last are checked. ``phrases`` are beginnings of
    refusals beside the shipped ones. ``least_groundedness`` None: not checked. With less than ``least_time_s`` left no
    stronger model is asked. ``check_timeout_s`` bounds what groundedness waits for embeddings.
    """

    groups: tuple[Group, ...]
    refusal: bool = True
    phrases: tuple[str, ...] = ()
    format: bool = True
    least_words: int = 0
    least_groundedness: float | None = None
    least_time_s: float = 10.0
    check_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOutPolicy:
    """How many calls are made for one request, and how one answer is made of their replies.

    ``samples`` calls at the route's own deployments, or one at each of ``members``. ``needed`` of them have to be
    answered. ``field`` is what a vote counts in JSON, as names with dots between them; ``scorer`` chooses the best;
    texts are joined with ``separator`` between them, or as a JSON list with ``as_json``.
    """

    aggregate: Aggregate
    samples: int = 0
    members: tuple[Deployment, ...] = ()
    needed: int = 1
    field: str | None = None
    scorer: Scorer = "groundedness"
    separator: str = "\n\n"
    as_json: bool = False
    score_timeout_s: float = 10.0

    @property
    def size(self) -> int:
        """How many calls are made."""
        return len(self.members) or self.samples
