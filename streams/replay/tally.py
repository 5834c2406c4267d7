"""What a batch came to, and the places that it moved."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal

from processors.event import Output, Recorded
from schemas.record import Record
from schemas.records import Cost
from streams.replay.run import Place, Written


@dataclass(slots=True)
class Tally:
    """What a batch came to in one partition."""

    next: int
    counts: Counter[str] = field(default_factory=Counter)
    cost_usd: Decimal = Decimal(0)
    avoided_usd: Decimal = Decimal(0)


def after(place: Place, tally: Tally, written: Written) -> Place:
    """The place once a batch is done, and acknowledged as far as ``written``."""
    counts = Counter(place.counts)
    counts.update(tally.counts)
    return replace(
        place,
        next=max(place.next, tally.next),
        counts=dict(counts),
        cost_usd=place.cost_usd + tally.cost_usd,
        avoided_usd=place.avoided_usd + tally.avoided_usd,
        written=further(place.written, written),
    )


def further(noted: Written, written: Written) -> Written:
    """What is noted, and what was written since."""
    ends = {topic: dict(known) for topic, known in noted.items()}
    for topic, now in written.items():
        known = ends.setdefault(topic, {})
        known.update({number: max(offset, known.get(number, 0)) for number, offset in now.items()})
    return ends


def record_of(output: Output) -> Record:
    """What an output says, whether its bytes are made already or not."""
    return output.record if isinstance(output, Recorded) else output


def amounts(output: Output) -> tuple[Decimal, Decimal]:
    """What an output says was spent and avoided."""
    record = record_of(output)
    return (record.amount_usd, record.avoided_cost_usd) if isinstance(record, Cost) else (Decimal(0), Decimal(0))
