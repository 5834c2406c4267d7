"""Cost events of attempts from the journal alone, for whoever tells them in place of the worker that is gone."""

from __future__ import annotations

from dataclasses import replace

from processors.complete.records import correction_of, costs_of
from processors.event import Incoming
from processors.journal import AttemptRow, CallKey
from processors.journal.late import LateOutcome
from schemas.codec import Codec
from schemas.records import Cost, Enrichment


async def correction(late: LateOutcome, codec: Codec) -> Cost:
    """The event that corrects an attempt whose outcome came in late, as every delivery of the request gives it.

    Blocks on the registry where the input's schema is not known yet. Raises ``DependencyDownError``, and
    ``PoisonError`` for an input that nobody can read.
    """
    return correction_of(await _stored(late.key, late.input, codec), late.key, late.row)


async def cost_of(key: CallKey, row: AttemptRow, data: bytes, codec: Codec) -> Cost:
    """The event that a closed attempt is told with, as ``correction``. ``data``: its call's input."""
    return costs_of(await _stored(key, data, codec), key, [row])[0]


async def _stored(key: CallKey, data: bytes, codec: Codec) -> Incoming[Enrichment]:
    record = await codec.decode_fetching(data, Enrichment)
    meta = replace(record.meta, run=key.run)
    accepted_at = meta.accepted_at
    assert accepted_at is not None
    return Incoming(record=record, meta=meta, raw=data, appended_at=accepted_at)
