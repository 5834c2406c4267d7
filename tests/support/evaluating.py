"""The evaluate stage with its fakes, and answers and feedback to put before it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from processors.clock import FakeClock
from processors.embeddings import HashingEmbedder
from processors.evaluate import Evaluate, EvaluatePolicy, FakeEvaluationStore, SamplingPolicy
from processors.event import Incoming, Output, Recorded
from schemas.codec import Codec
from schemas.ids import derive_id
from schemas.record import Record
from schemas.records import Answer, Feedback, Meta, Passage, Text

CODEC = Codec.offline()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PASSAGE = "The with statement wraps a block. It calls the context manager's exit method. Python 2.5 brought it in 2006."


@dataclass
class Observed:
    """An observer that remembers."""

    expected: int = 0
    done: list[str] = field(default_factory=list)
    feedback: list[str] = field(default_factory=list)

    def on_expected(self) -> None:
        self.expected += 1

    def on_done(self, outcome: str) -> None:
        self.done.append(outcome)

    def on_feedback(self, outcome: str) -> None:
        self.feedback.append(outcome)


@dataclass
class Bench:
    """The stage and its collaborators."""

    policy: EvaluatePolicy = field(default_factory=lambda: EvaluatePolicy(sampling=SamplingPolicy(rate=1.0)))
    store: FakeEvaluationStore = field(default_factory=FakeEvaluationStore)
    embedder: HashingEmbedder = field(default_factory=HashingEmbedder)
    clock: FakeClock = field(default_factory=FakeClock)
    observed: Observed = field(default_factory=Observed)

    async def take(self, record: Record, *, control_offset: int = 3) -> list[Output]:
        stage = Evaluate(
            self.store,
            self.embedder,
            codec=CODEC,
            lane="live",
            policy=self.policy,
            observer=self.observed,
        )
        meta: Meta = record.meta  # type: ignore[attr-defined]
        incoming: Incoming[Any] = Incoming(
            record=record, meta=meta, raw=CODEC.encode(record), appended_at=NOW, control_offset=control_offset
        )
        return list(await stage(incoming))

    def final(self, answered: Answer) -> None:
        """Make an answer final, as its writer does before it publishes it."""
        meta = answered.meta
        self.store.answers.setdefault((meta.tenant, meta.lane, meta.request_id), []).append(
            (meta.event_id, CODEC.encode(answered))
        )


def bytes_of(outputs: list[Output]) -> list[bytes]:
    """What would be published."""
    return [output.value if isinstance(output, Recorded) else CODEC.encode(output) for output in outputs]


def answer(text: str | None = "The with statement wraps a block.", request_id: str = "r1", **fields: Any) -> Answer:
    """An answer to a question about one passage."""
    meta = Meta(
        event_id=derive_id("answer", request_id, str(fields.get("revision", 0))),
        request_id=request_id,
        tenant="acme",
        lane="live",
        stage="filter",
        accepted_at=NOW,
    )
    known: dict[str, Any] = {
        "meta": replace(meta, **fields.pop("meta", {})),
        "status": "answered",
        "question": Text(inline="What does the with statement do?"),
        "text": None if text is None else Text(inline=text),
        "passages": (passage(PASSAGE),),
        "finish_reason": "stop",
        "route": "default",
        "model": "m",
        "prompt_version": "answer@1",
        "team": "docs",
        "user": "u-asked",
    }
    return Answer(**{**known, **fields})


def passage(text: str, number: int = 1) -> Passage:
    return Passage(
        passage_id=f"p{number}",
        document_id="d",
        namespace="default",
        number=number,
        digest="x",
        score=0.9,
        text=Text(inline=text),
    )


def feedback(rating: int | None = 2, request_id: str = "r1", **fields: Any) -> Feedback:
    """Feedback as a consumer writes it."""
    meta = Meta(event_id="f-1", request_id=request_id, tenant="acme", lane="live", stage="producer")
    return Feedback(meta=replace(meta, **fields.pop("meta", {})), rating=rating, **fields)
