"""Answers and evaluations of two sides, and the runs that they belong to, for tests of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from schemas.codec import Codec
from schemas.ids import derive_id
from schemas.record import Record
from schemas.records import Answer, Citation, Evaluation, Failure, Meta, Score, Text, Timing, Usage, Verdict
from streams.outputs import key_of
from streams.reading import Entry
from streams.replay.run import Run, RunConfig

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CODEC = Codec.offline()


def run_of(run: str = "r1", **changes: Any) -> Run:
    """A run of the filter over live that came to its end."""
    values: dict[str, Any] = {
        "run": run,
        "name": f"name-{run}",
        "lane": f"replay-{run}",
        "source_lane": "live",
        "target": "shadow",
        "stages": ("filter",),
        "config": RunConfig(),
        "code_version": "1",
        "state": "done",
    }
    return Run(**{**values, **changes})


def meta_of(request_id: str, *, run: str = "", lane: str = "", tenant: str = "acme", stage: str = "filter") -> Meta:
    """The meta of what a stage said, live or in a run's lane."""
    lane = lane or (f"replay-{run}" if run else "live")
    event_id = derive_id("said", stage, tenant, lane, run, request_id)
    return Meta(event_id=event_id, request_id=request_id, tenant=tenant, lane=lane, run=run, stage=stage)


def answer(request_id: str, text: str | None = "It is so.", **fields: Any) -> Answer:
    """An answer of live, or of the ``run`` that is named."""
    meta = fields.pop("meta", None) or meta_of(
        request_id, **{name: fields.pop(name) for name in ("run", "lane", "tenant") if name in fields}
    )
    failed = {"failure": Failure(code="blocked", error_class="policy", message="no")} if text is None else {}
    values: dict[str, Any] = {
        "status": "answered" if text is not None else "blocked",
        "text": None if text is None else Text(inline=text),
        "question": Text(inline=f"What about {request_id}?"),
        "cost_usd": Decimal("0.001"),
        "usage": Usage(prompt_tokens=100, completion_tokens=20),
        "served_by": "model",
        "timings": (Timing(stage="complete", service_ms=100.0),),
        "citations": (Citation(passage_id="p1", document_id="d1"),),
        "verdicts": (Verdict(guard="pii", outcome="pass"),),
        "feature": "docs",
        "prompt_version": "support@1",
        "route": "default",
        **failed,
    }
    return Answer(meta=meta, **{**values, **fields})


def evaluation(of: Answer, **scores: float | None) -> Evaluation:
    """The scores of an answer, in its lane."""
    return Evaluation(
        meta=replace(of.meta, event_id=derive_id("evaluation", of.meta.event_id), stage="evaluate"),
        answer_event_id=of.meta.event_id,
        revision=of.revision,
        scores=tuple(Score(name=name, scorer="s", scorer_version="1", value=value) for name, value in scores.items()),
        feature=of.feature,
        route=of.route,
    )


def lying(topic: str, records: Sequence[Record | bytes]) -> list[Entry]:
    """Records as they lie in a topic, a second apart."""
    return [
        Entry(
            topic=topic,
            partition=0,
            offset=offset,
            time=NOW + timedelta(seconds=offset),
            key=b"?" if isinstance(record, bytes) else key_of(record).encode(),
            value=record if isinstance(record, bytes) else CODEC.encode(record),
            headers=(),
        )
        for offset, record in enumerate(records)
    ]
