"""What one side said about a request, in one form whatever was replayed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

import orjson

from schemas.records import Answer, Completion, Enrichment, Evaluation, Grounding, Text, Timing, Verdict

# Statuses of what went well: from one of these to another one is a change for the worse.
GOOD = frozenset({"answered", "completed", "enriched", "scored", "booked"})
# Amounts are whole picodollars in the file: the twelve places of money, summed without rounding.
PICO = Decimal(10) ** 12
# More of a text is neither compared nor shown.
MOST_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is compared of a request. Amounts in picodollars; ``latency_ms`` is the model's, where one was asked."""

    tenant: str
    request_id: str
    event_id: str
    revision: int = 0
    status: str
    code: str = ""
    question: str | None = None
    text: str | None = None
    citations: tuple[str, ...] = ()
    # Outcome by guard, with what was found.
    verdicts: Mapping[str, str] = field(default_factory=dict)
    # What it costs where nothing is reused, and what was paid.
    price_pico: int = 0
    paid_pico: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_ms: float | None = None
    feature: str = ""
    prompt: str = ""
    route: str = ""
    model: str = ""
    served_by: str = ""
    index: str = ""

    def encode(self) -> bytes:
        """As JSON."""
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, value: bytes) -> Said:
        """What ``encode`` gave."""
        values = orjson.loads(value)
        return cls(**{**values, "citations": tuple(values["citations"])})


def of_answer(answer: Answer) -> Said:
    """What an answer says."""
    return Said(
        **_identity(answer),
        revision=answer.revision,
        status=answer.status,
        code=answer.failure.code if answer.failure else "",
        question=_text(answer.question),
        text=_first(answer.text, answer.refusal, answer.tool_calls_json),
        citations=tuple(dict.fromkeys(one.passage_id for one in answer.citations)),
        verdicts=_verdicts(answer.verdicts),
        **_spent(answer),
        latency_ms=_called_ms(answer.timings) if answer.served_by == "model" else None,
        feature=answer.feature,
        prompt=answer.prompt_version,
        index=answer.index_version,
        route=answer.route,
    )


def of_completion(completion: Completion) -> Said:
    """What a completion says: the model's text before the filter."""
    return Said(
        **_identity(completion),
        status="completed",
        question=_text(completion.grounding.question),
        text=_first(completion.text, completion.refusal, completion.tool_calls_json),
        verdicts=_verdicts(completion.admission.verdicts),
        **_spent(completion),
        latency_ms=completion.duration_ms if completion.served_by == "model" else None,
        feature=completion.request.feature,
        prompt=completion.grounding.prompt_version,
        index=_index(completion.grounding),
        route=completion.admission.route,
    )


def of_enrichment(enrichment: Enrichment) -> Said:
    """What an enrichment says: the messages are its text, and the passages its citations."""
    grounding = enrichment.grounding
    parts = (_text(part.text) or f"({part.type})" for message in grounding.messages for part in message.content)
    return Said(
        **_identity(enrichment),
        status="enriched",
        question=_text(grounding.question),
        text="\n\n".join(parts)[:MOST_CHARACTERS],
        citations=tuple(one.passage_id for one in grounding.passages),
        verdicts=_verdicts(enrichment.admission.verdicts),
        prompt_tokens=grounding.prompt_tokens_estimate,
        feature=enrichment.request.feature,
        prompt=grounding.prompt_version,
        index=_index(grounding),
        route=enrichment.admission.route,
    )


def of_evaluation(evaluation: Evaluation) -> Said:
    """What an evaluation alone says: why each score is what it is, and what scoring cost."""
    lines = (
        f"{one.name}: {one.failure_code if one.value is None else one.value} {_text(one.explanation) or ''}".rstrip()
        for one in evaluation.scores
    )
    cost = pico(sum((one.cost_usd or Decimal(0) for one in evaluation.scores), Decimal(0)))
    return Said(
        **_identity(evaluation),
        revision=evaluation.revision,
        status="scored",
        text="\n".join(lines)[:MOST_CHARACTERS],
        price_pico=cost,
        paid_pico=cost,
        feature=evaluation.feature,
        prompt=evaluation.prompt_version,
        route=evaluation.route,
        model=evaluation.model,
    )


def scores_of(evaluation: Evaluation) -> dict[str, float | None]:
    """The scores of an evaluation by name; ``None`` where there is no figure."""
    return {one.name: one.value for one in evaluation.scores}


def pico(usd: Decimal) -> int:
    """An amount in picodollars."""
    return int((usd * PICO).to_integral_value())


def _index(grounding: Grounding) -> str:
    """The index that was searched; of a past one every request may have its own moment, which its event tells."""
    return grounding.index_version + (" (as of then)" if grounding.index_as_of is not None else "")


def _identity(record: Any) -> dict[str, Any]:
    meta = record.meta
    return {"tenant": meta.tenant, "request_id": meta.request_id, "event_id": meta.event_id}


def _spent(record: Answer | Completion) -> dict[str, Any]:
    return {
        "price_pico": pico(record.cost_usd + record.avoided_cost_usd),
        "paid_pico": pico(record.cost_usd),
        "prompt_tokens": record.usage.prompt_tokens,
        "completion_tokens": record.usage.completion_tokens,
        "model": record.model,
        "served_by": record.served_by,
    }


def _called_ms(timings: Iterable[Timing]) -> float | None:
    found = [one.service_ms for one in timings if one.stage == "complete"]
    return found[-1] if found else None


def _verdicts(verdicts: Sequence[Verdict]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for one in verdicts:
        found.setdefault(one.guard, []).append(one.outcome + (f" {one.category}" if one.category else ""))
    return {guard: ", ".join(sorted(set(outcomes))) for guard, outcomes in found.items()}


def _first(*texts: Text | None) -> str | None:
    return next((_text(one) for one in texts if one is not None), None)


def _text(text: Text | None) -> str | None:
    if text is None:
        return None
    # What can't be read here goes by its digest: the same one is the same text.
    return f"({text.ref or 'an encrypted text'})" if text.inline is None else text.inline[:MOST_CHARACTERS]
