"""What the events of a replay have embedded, and the most that it can cost: known before anything is bought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from processors.clock import Clock
from processors.complete.complexity import route_of_class
from processors.complete.payload import token_limit
from processors.complete.routes import Route
from processors.enrich.policy import EnrichPolicy
from processors.enrich.stage import searched_for
from processors.enrich.tokens import estimate_tokens
from processors.evaluate.material import MOST_EVIDENCE, MOST_SENTENCES, material, material_of
from processors.evaluate.policy import EvaluatePolicy
from processors.evaluate.processor import ANSWERED
from processors.evaluate.scoring import embedded
from processors.event import Incoming
from processors.spending.metered import Terms, most_tokens
from schemas.errors import ConfigurationError, RefusedError
from schemas.records import Answer, Completion, Enrichment, Grounding, Meta, Usage
from streams.deployed import embedding_terms, routes
from streams.ports import enrich_policies, evaluate_policy
from streams.settings import Settings
from streams.several import scores_replies

# Of a reply that is not written yet: few tokens of any tokenizer are longer, and none of a text is on average.
BYTES_A_TOKEN = 16
# A call that fails for several askers is made again for each of them.
_ATTEMPTS = 2
# What stands for a reply that is not written yet.
_UNWRITTEN = "A reply."


def buying(settings: Settings, stages: Sequence[str]) -> tuple[str, ...]:
    """Those of the stages that buy embeddings; none where the endpoint's calls cost nothing.

    Raises ``ConfigurationError`` for a route that can't be built.
    """
    return () if embedding_terms(settings) is None else embedding(settings, stages)


def embedding(settings: Settings, stages: Sequence[str]) -> tuple[str, ...]:
    """Those of the stages that have something embedded, whatever it costs."""
    policy = settings.evaluate
    found = {
        "enrich": True,
        "complete": "complete" in stages and any(scores_replies(route) for route in routes(settings).values()),
        "evaluate": policy.groundedness or policy.relevance,
    }
    return tuple(name for name in stages if found.get(name))


@dataclass(frozen=True, slots=True)
class Embedded:
    """What an event has embedded, at the most; amounts in US dollars, ``likely_usd`` by an estimate of the tokens."""

    texts: int = 0
    likely_usd: Decimal = Decimal(0)
    most_usd: Decimal = Decimal(0)

    def __add__(self, other: Embedded) -> Embedded:
        return Embedded(self.texts + other.texts, self.likely_usd + other.likely_usd, self.most_usd + other.most_usd)


NOTHING = Embedded()


class Bounds:
    """What a stage has embedded for an event. Pure; costs a millisecond for an answer with long passages."""

    def __init__(
        self, stage: str, terms: Terms | None, clock: Clock, *, settings: Settings, by_name: Mapping[str, Route]
    ) -> None:
        """``terms`` ``None``: the endpoint's calls cost nothing."""
        self._stage, self._terms, self._clock, self._routes = stage, terms, clock, by_name
        # Which scores a reply is decided by says its route, whatever is evaluated later.
        scored = EvaluatePolicy() if stage == "complete" else evaluate_policy(settings)
        self._policies, self._evaluate = enrich_policies(settings), scored

    def of(self, incoming: Incoming[Any]) -> Embedded:
        """For an event that the stage reads, or for one before it that is known: what it has is not asked for twice."""
        record = incoming.record
        if self._stage == "enrich":
            return self._searched(record)
        if self._stage == "complete":
            return self._checked(record)
        return self._scored(record)

    def _searched(self, record: Any) -> Embedded:
        policy = self._policies.get(record.admission.route, EnrichPolicy())
        try:
            text, k = searched_for(record.request, policy)
        except RefusedError:
            return NOTHING
        return self._of([text]) if k else NOTHING

    def _checked(self, record: Enrichment, more_bytes: int = 0) -> Embedded:
        """Replies that a route decides by are not written yet."""
        route = self._routes.get(record.admission.route)
        route = None if route is None else route_of_class(route, record)
        if route is None or not scores_replies(route):
            return NOTHING
        replies = route.fan_out.size if route.fan_out is not None else route.most_attempts
        longest = max(token_limit(record.request.sampling, one) for one in route.deployments)
        one = self._unwritten(record.grounding, longest, more_bytes)
        return Embedded(one.texts * replies, one.likely_usd * replies, one.most_usd * replies * _ATTEMPTS)

    def _scored(self, record: Any, more_bytes: int = 0) -> Embedded:
        """Of an answer its texts; of what is no answer yet, the passages and the longest reply."""
        meta = record.meta
        if isinstance(record, Answer):
            chosen = record.status == ANSWERED and self._samples(meta, record.route)
            return self._of(embedded(material(record), self._evaluate)) if chosen else NOTHING
        route = record.admission.route
        if not self._samples(meta, route):
            return NOTHING
        grounding = record.grounding
        if isinstance(record, Completion):
            text = None if record.text is None else record.text.inline
            return self._of(embedded(material_of(text, grounding.question.inline, grounding.passages), self._evaluate))
        known = self._routes.get(route)
        if known is None:
            return NOTHING
        longest = max(token_limit(record.request.sampling, one) for one in known.deployments)
        return self._unwritten(grounding, longest, more_bytes)

    def _samples(self, meta: Meta, route: str) -> bool:
        sampling = self._evaluate.sampling
        return sampling.choose(request_id=meta.request_id, tenant=meta.tenant, route=route) is not None

    def _unwritten(self, grounding: Grounding, reply_tokens: int, more_bytes: int) -> Embedded:
        """For a reply of so many tokens at the most: its sentences, those of the passages, question and reply."""
        said = material_of(_UNWRITTEN, grounding.question.inline, grounding.passages)
        known = self._of(embedded(said, self._evaluate))
        # Its sentences, and its beginning beside the question.
        most = 2 * reply_tokens * BYTES_A_TOKEN + most_tokens([""] * MOST_SENTENCES)
        if more_bytes:
            most += more_bytes + most_tokens([""] * MOST_EVIDENCE)
        likely = known.likely_usd + self._usd(2 * reply_tokens)
        return Embedded(known.texts + MOST_SENTENCES, likely, known.most_usd + self._usd(most))

    def of_enrichment(self, record: Enrichment, more_bytes: int) -> Embedded:
        """For a request by an enrichment that is recorded; another one may have passages of so many bytes more."""
        if self._stage == "complete":
            return self._checked(record, more_bytes)
        return self._scored(record, more_bytes)

    def _of(self, texts: Sequence[str]) -> Embedded:
        distinct = dict.fromkeys(texts)
        likely = sum(estimate_tokens(text) for text in distinct)
        return Embedded(len(distinct), self._usd(likely), self._usd(most_tokens(distinct)))

    def _usd(self, tokens: int) -> Decimal:
        """As the book of embeddings prices them."""
        if self._terms is None or not tokens:
            return Decimal(0)
        return self._terms.tariff.amount(Usage(prompt_tokens=tokens), self._clock.now())


def bounds_of(stage: str, settings: Settings, clock: Clock, *, free: bool = False) -> Bounds | None:
    """What bounds a stage's embeddings; ``None`` where it has none, or, unless ``free``, where they cost nothing."""
    terms = embedding_terms(settings)
    if not embedding(settings, (stage,)) or (terms is None and not free):
        return None
    by_name: Mapping[str, Route] = {}
    if stage != "enrich":
        # A run that makes calls has its keys checked; the others need neither keys nor routes.
        with suppress(ConfigurationError):
            by_name = routes(settings)
    return Bounds(stage, terms, clock, settings=settings, by_name=by_name)
