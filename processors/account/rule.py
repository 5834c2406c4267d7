"""The ledger's rule: what an attempt cost, from all that its events said, in whatever order they came.

* An event counts once, however often it is delivered.
* An attempt may have several events: one that closed it, one that corrects it when its outcome came in late, and one
  for every change of its price. Their amounts are added: a correction is the difference to what was booked.
* An event that says otherwise than an earlier one of the same id is a conflict. It should not happen. The one with the
  higher amount counts, because a book that is too low hides money that was spent; both are kept, and counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from processors.account.entry import Booked, Said

# The ``correction`` of an event that books a changed price.
RERATE = "rerate"


@dataclass(frozen=True, slots=True)
class Standing:
    """How an attempt stands: ``said`` is what the row shows, with the sums of all of ``history``."""

    said: Said
    conflicts: int
    history: tuple[Said, ...]


def opened(said: Said) -> Standing:
    """An attempt after its first event."""
    return Standing(said, 0, (said,))


def add(attempt_id: str, standing: Standing, said: Said) -> tuple[Standing, Booked]:
    """The attempt after one more event, and what that event was."""
    if any(one.event_id == said.event_id and one.digest == said.digest for one in standing.history):
        return standing, "repeated"
    known = any(one.event_id == said.event_id for one in standing.history)
    return fold(attempt_id, (*standing.history, said)), "conflict" if known else "corrected"


def fold(attempt_id: str, history: Sequence[Said]) -> Standing:
    """How an attempt stands after these events; their order does not matter."""
    by_event: defaultdict[str, list[Said]] = defaultdict(list)
    for said in history:
        by_event[said.event_id].append(said)
    counting = [max(versions, key=lambda said: (said.amount_usd, said.digest)) for versions in by_event.values()]
    # The event that closed the attempt bears its id; the last of the others knows best.
    ordered = sorted(counting, key=lambda said: (said.event_id != attempt_id, said.incurred_at, said.digest))
    first, last = ordered[0], ordered[-1]
    # A change of price says nothing about the outcome: that may have come in since.
    outcome = [said for said in ordered if said.correction != RERATE] or [last]
    shown = replace(
        outcome[-1],
        price_source=last.price_source,
        price_version=last.price_version,
        correction=last.correction,
        event_id=first.event_id,
        digest=first.digest,
        amount_usd=sum((said.amount_usd for said in counting), Decimal(0)),
        avoided_cost_usd=sum((said.avoided_cost_usd for said in counting), Decimal(0)),
        incurred_at=first.incurred_at,
    )
    return Standing(shown, len(history) - len(counting), tuple(history))
