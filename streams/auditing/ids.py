"""Whether an event has the id that follows from its cause. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from processors.answers import FINAL_ORDINAL
from processors.complete import SAMPLE
from processors.complete.purse import ALERT_ORDINAL
from processors.journal import CallKey
from processors.spending.metered import PURPOSE as EMBEDDING
from processors.spending.payer import FIRST_ORDINAL
from schemas.ids import derive_id, event_id
from schemas.record import Record
from schemas.records import Admitted, Alert, Answer, Chunk, Completion, Cost, Delta, Enrichment, Evaluation, Meta
from streams.audit import REPLAYS

# Outputs of a stage have small ordinals; what ends a request has one far away from them.
_ORDINALS = (0, FINAL_ORDINAL, *range(1, 8))
_ALERTS = range(ALERT_ORDINAL, ALERT_ORDINAL + 64)
# What calls of the journal are made for.
_COMPLETION = "completion"
_CALLS = (_COMPLETION, SAMPLE)
# Calls of a request, and corrections of an attempt, that are tried for.
_MOST = 64


def id_holds(record: Record) -> bool:
    """Whether the id can be derived from what the event says. True for what comes from outside: nothing is derived."""
    meta: Meta | None = getattr(record, "meta", None)
    if meta is None:
        return True
    match record:
        case Admitted() | Enrichment() | Completion() | Answer() | Evaluation():
            return any(_child(meta, ordinal) for ordinal in _ORDINALS) or is_backfilled(meta)
        case Alert() if meta.stage == "complete":
            return any(_child(meta, ordinal) for ordinal in _ALERTS)
        case Cost() if record.correction == "late":
            return meta.event_id == derive_id(record.attempt_id, "late") and _is_attempt(record)
        case Cost() if record.correction == "rerate":
            return any(meta.event_id == derive_id(record.attempt_id, "rerate", number) for number in range(_MOST))
        case Cost() if record.purpose == EMBEDDING and not record.correction:
            # Those of evaluations were told with them once.
            ordinals = (FIRST_ORDINAL + record.ordinal, 1)
            return meta.event_id == record.attempt_id and any(_child(meta, ordinal) for ordinal in ordinals)
        case Cost() if meta.stage == "complete" and not record.correction:
            return meta.event_id == record.attempt_id and _is_attempt(record)
        case Delta():
            return any(
                meta.event_id == derive_id(attempt, "delta", record.sequence)
                for attempt in _attempts(meta, record.attempt)
            )
        case Chunk():
            return meta.event_id == _chunk_id(record)
        case Alert() | Cost():
            # Our stages write no others.
            return False
        case _:
            return True


def is_backfilled(meta: Meta) -> bool:
    """Whether a replay made the event in a lane of its own and published it in another: its cause is in that lane."""
    lane = f"{REPLAYS}{meta.run}"
    return bool(meta.run) and lane != meta.lane and any(_child(meta, ordinal, lane) for ordinal in _ORDINALS)


def _child(meta: Meta, ordinal: int, lane: str = "") -> bool:
    return meta.event_id == event_id(
        tenant=meta.tenant,
        lane=lane or meta.lane,
        run=meta.run,
        stage=meta.stage,
        causation_id=meta.causation_id,
        ordinal=ordinal,
    )


def _is_attempt(cost: Cost) -> bool:
    """Whether the attempt is one of the request's calls for what the event names as its purpose."""
    return cost.purpose in _CALLS and any(
        cost.attempt_id == one for one in _attempts(cost.meta, cost.ordinal, cost.purpose)
    )


def _attempts(meta: Meta, number: int, purpose: str = _COMPLETION) -> Iterator[str]:
    """The ids that an attempt of the request's calls can have; a run may use the calls of the request itself."""
    for ordinal in range(_MOST):
        for run in dict.fromkeys((meta.run, "")):
            key = CallKey(
                tenant=meta.tenant,
                lane=meta.lane,
                run=run,
                request_id=meta.request_id,
                purpose=purpose,
                ordinal=ordinal,
            )
            yield key.attempt_id(number)
            yield derive_id(key.call_id, "cache")


def _chunk_id(chunk: Chunk) -> str:
    meta = chunk.meta
    named: tuple[str, ...] = () if chunk.kind == "text" else (chunk.kind,)
    if chunk.failure is not None:
        named = (*named, chunk.failure.code)
    return derive_id(meta.tenant, meta.lane, meta.run, meta.request_id, chunk.attempt, chunk.start_char, *named)
