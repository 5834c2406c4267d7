"""The event that corrects an attempt whose outcome came in late, from the journal alone."""

from __future__ import annotations

from dataclasses import replace

from processors.complete.records import correction_of
from processors.event import Incoming
from processors.journal.late import LateOutcome
from schemas.codec import Codec
from schemas.records import Cost, Enrichment


async def correction(late: LateOutcome, codec: Codec) -> Cost:
    """The correction as every delivery of the request gives it: the same id, and the same bytes.

    Blocks on the registry where the input's schema is not known yet. Raises ``DependencyDownError``, and
    ``PoisonError`` for an input that nobody can read.
    """
    record = await codec.decode_fetching(late.input, Enrichment)
    meta = replace(record.meta, run=late.key.run)
    accepted_at = meta.accepted_at
    assert accepted_at is not None
    stored = Incoming(record=record, meta=meta, raw=late.input, appended_at=accepted_at)
    return correction_of(stored, late.key, late.row)
